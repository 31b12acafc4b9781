"""Immunise language models against harmful fine-tuning, attack them, and measure what is left.

The public names load on first use, so that the command line answers `--help` without loading torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trl's constructors send some otherwise

if TYPE_CHECKING:
    from boostershot.attacks import ATTACKS, AttackArguments, HarmfulMix, attack
    from boostershot.core.oracle import NonFiniteError
    from boostershot.data.format import Format
    from boostershot.data.harmful import load_harmful_prompts
    from boostershot.data.tasks import Task, load_task
    from boostershot.defenses import (
        CTRAP,
        DEFENSES,
        SAM,
        SFT,
        Antibody,
        Booster,
        GradientAscent,
        Lookahead,
        Sum,
        TVaccine,
        Vaccine,
        defense_gradient,
    )
    from boostershot.errors import InputError, StageFailed
    from boostershot.evaluation.calibration import calibrate, calibration_answers
    from boostershot.evaluation.evaluate import Scores, evaluate
    from boostershot.evaluation.judges import OfflineJudge, Relevance
    from boostershot.models import load_base
    from boostershot.pipeline.grid import run
    from boostershot.pipeline.results import Results
    from boostershot.report import write_report
    from boostershot.training.arguments import ImmunizeArguments
    from boostershot.training.immunize import immunize

_HOMES = {
    "Vaccine": "defenses",
    "TVaccine": "defenses",
    "Sum": "defenses",
    "SAM": "defenses",
    "Lookahead": "defenses",
    "GradientAscent": "defenses",
    "CTRAP": "defenses",
    "Antibody": "defenses",
    "ATTACKS": "attacks",
    "AttackArguments": "attacks",
    "Booster": "defenses",
    "DEFENSES": "defenses",
    "Format": "data.format",
    "HarmfulMix": "attacks",
    "ImmunizeArguments": "training.arguments",
    "InputError": "errors",
    "NonFiniteError": "core.oracle",
    "OfflineJudge": "evaluation.judges",
    "Relevance": "evaluation.judges",
    "Results": "pipeline.results",
    "SFT": "defenses",
    "Scores": "evaluation.evaluate",
    "StageFailed": "errors",
    "Task": "data.tasks",
    "attack": "attacks",
    "calibrate": "evaluation.calibration",
    "calibration_answers": "evaluation.calibration",
    "defense_gradient": "defenses",
    "evaluate": "evaluation.evaluate",
    "immunize": "training.immunize",
    "load_base": "models",
    "load_harmful_prompts": "data.harmful",
    "load_task": "data.tasks",
    "run": "pipeline.grid",
    "write_report": "report",
}

__all__ = [
    "Vaccine",
    "TVaccine",
    "Sum",
    "SAM",
    "Lookahead",
    "GradientAscent",
    "CTRAP",
    "Antibody",
    "ATTACKS",
    "DEFENSES",
    "SFT",
    "AttackArguments",
    "Booster",
    "Format",
    "HarmfulMix",
    "ImmunizeArguments",
    "InputError",
    "NonFiniteError",
    "OfflineJudge",
    "Relevance",
    "Results",
    "Scores",
    "StageFailed",
    "Task",
    "attack",
    "calibrate",
    "calibration_answers",
    "defense_gradient",
    "evaluate",
    "immunize",
    "load_base",
    "load_harmful_prompts",
    "load_task",
    "run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'boostershot' has no attribute {name!r}")
    return getattr(importlib.import_module(f"boostershot.{_HOMES[name]}"), name)
