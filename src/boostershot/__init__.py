"""Immunise language models against harmful fine-tuning, attack them, and measure what is left.

The public names load on first use, so that the command line answers `--help` without loading torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trl's constructors send some otherwise

if TYPE_CHECKING:
    from boostershot.attacks import (
        ATTACKS,
        Adaptive,
        Anchor,
        BenignOnly,
        Grpo,
        GrpoTask,
        HarmfulMix,
        HarmfulOnly,
        Kick,
        Perturbed,
    )
    from boostershot.attacks.finetune import AttackArguments, attack
    from boostershot.attacks.reinforce import ReinforceArguments, reinforce
    from boostershot.core.oracle import NonFiniteError
    from boostershot.data.format import Format
    from boostershot.data.harmful import load_harmful_prompts
    from boostershot.data.safe_prompts import load_safe_prompts
    from boostershot.data.tasks import OwnTask, Task, load_task
    from boostershot.data.texts import load_texts
    from boostershot.defenses import (
        CRL,
        CTRAP,
        DEFENSES,
        SAM,
        SDD,
        SEAM,
        SFT,
        TAR,
        Antibody,
        Booster,
        GradientAscent,
        Lookahead,
        LoX,
        NoiseAndDistil,
        Patcher,
        RepNoise,
        Sum,
        TVaccine,
        Vaccine,
        bring_to_distance,
        defense_gradient,
        distance_from_base,
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
    "Adaptive": "attacks",
    "Anchor": "attacks",
    "Antibody": "defenses",
    "attack": "attacks.finetune",
    "AttackArguments": "attacks.finetune",
    "ATTACKS": "attacks",
    "BenignOnly": "attacks",
    "Booster": "defenses",
    "bring_to_distance": "defenses",
    "calibrate": "evaluation.calibration",
    "calibration_answers": "evaluation.calibration",
    "CRL": "defenses",
    "CTRAP": "defenses",
    "defense_gradient": "defenses",
    "DEFENSES": "defenses",
    "distance_from_base": "defenses",
    "evaluate": "evaluation.evaluate",
    "Format": "data.format",
    "GradientAscent": "defenses",
    "Grpo": "attacks",
    "GrpoTask": "attacks",
    "HarmfulMix": "attacks",
    "HarmfulOnly": "attacks",
    "immunize": "training.immunize",
    "ImmunizeArguments": "training.arguments",
    "InputError": "errors",
    "load_base": "models",
    "load_harmful_prompts": "data.harmful",
    "load_safe_prompts": "data.safe_prompts",
    "load_task": "data.tasks",
    "load_texts": "data.texts",
    "Kick": "attacks",
    "Lookahead": "defenses",
    "LoX": "defenses",
    "NoiseAndDistil": "defenses",
    "NonFiniteError": "core.oracle",
    "OfflineJudge": "evaluation.judges",
    "OwnTask": "data.tasks",
    "Patcher": "defenses",
    "reinforce": "attacks.reinforce",
    "ReinforceArguments": "attacks.reinforce",
    "Relevance": "evaluation.judges",
    "Perturbed": "attacks",
    "RepNoise": "defenses",
    "Results": "pipeline.results",
    "run": "pipeline.grid",
    "SAM": "defenses",
    "Scores": "evaluation.evaluate",
    "SDD": "defenses",
    "SEAM": "defenses",
    "SFT": "defenses",
    "StageFailed": "errors",
    "Sum": "defenses",
    "TAR": "defenses",
    "Task": "data.tasks",
    "TVaccine": "defenses",
    "Vaccine": "defenses",
    "write_report": "report",
}

__all__ = [
    "ATTACKS",
    "CRL",
    "CTRAP",
    "DEFENSES",
    "SAM",
    "SDD",
    "SEAM",
    "SFT",
    "TAR",
    "Adaptive",
    "Anchor",
    "Antibody",
    "AttackArguments",
    "BenignOnly",
    "Booster",
    "Format",
    "GradientAscent",
    "Grpo",
    "GrpoTask",
    "HarmfulMix",
    "HarmfulOnly",
    "ImmunizeArguments",
    "InputError",
    "Kick",
    "LoX",
    "Lookahead",
    "NoiseAndDistil",
    "NonFiniteError",
    "OfflineJudge",
    "OwnTask",
    "Patcher",
    "Perturbed",
    "ReinforceArguments",
    "Relevance",
    "RepNoise",
    "Results",
    "Scores",
    "StageFailed",
    "Sum",
    "TVaccine",
    "Task",
    "Vaccine",
    "attack",
    "bring_to_distance",
    "calibrate",
    "calibration_answers",
    "defense_gradient",
    "distance_from_base",
    "evaluate",
    "immunize",
    "load_base",
    "load_harmful_prompts",
    "load_safe_prompts",
    "load_task",
    "load_texts",
    "reinforce",
    "run",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'boostershot' has no attribute {name!r}")
    return getattr(importlib.import_module(f"boostershot.{_HOMES[name]}"), name)
