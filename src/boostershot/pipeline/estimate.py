"""How long a run will take here: the work of its stages over the speed of this machine, both rough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from boostershot.config import Recipe, build_defense

ROW = 42  # tokens of a row beyond the preamble that all rows share, on the quickstart's data
EFFICIENCY = 0.55  # of the matrix-multiply speed, that a whole step reaches on the embedded model


@dataclass(frozen=True)
class Planned:
    """A stage that a run needs: what it does and how many tokens it sends through the model.

    A token through the model forward counts 1, forward and backward (LoRA) 2.
    """

    what: str
    tokens: float
    passes: int = 0


def planned(recipe: Recipe) -> Iterator[Planned]:
    """The stages of a recipe, shared ones once."""
    settings, evaluate = recipe.immunize, recipe.evaluate
    rows = recipe.data.align.n or 500
    answers = rows + max(round(a.p * a.n) for a in recipe.attacks.values()) + evaluate.n_harmful
    yield Planned("data: splits, harmful answers of the un-aligned model where the source has none", answers * ROW)
    yield Planned("calibrate: the offline judge", 400 * ROW)
    one = 2.5 * evaluate.n_harmful * ROW + 1.2 * evaluate.n_task * ROW
    yield Planned("evaluate: the un-aligned model", one)
    steps = settings.steps_over(rows)
    for label, described in recipe.defenses.items():
        passes = build_defense(described, f"defenses.{label}").passes
        for seed in recipe.seeds:
            name = f"{label}, seed {seed}"
            yield Planned(
                f"immunize: {name}, {steps} steps of {passes} passes over {settings.batch} rows",
                2 * steps * passes * settings.batch * ROW,
                steps * passes,
            )
            yield Planned(f"evaluate: {name}, before the attack", one)
            for attack, a in recipe.attacks.items():
                length = a.total_steps
                yield Planned(
                    f"attack: {name}, {attack}, {length} steps of {a.batch} rows, lr {a.lr:g}, p {a.p:g}",
                    2 * length * a.batch * 1.2 * ROW,
                    length,
                )
                scored = [step for step in a.eval_steps if step > 0 and a.judged]
                if scored:
                    yield Planned(f"evaluate: {name}, {attack}, after {scored} steps", one * len(scored))


def seconds_here(recipe: Recipe, parameters: int) -> float:
    """An estimate of the run's duration on this machine, for a model of this many parameters."""
    tokens = sum(stage.tokens for stage in planned(recipe))
    return 2 * parameters * tokens / (EFFICIENCY * multiply_speed())


def multiply_speed() -> float:
    """Floating-point operations a second of a matrix product, measured in a fraction of a second."""
    a, b = torch.randn(512, 1024), torch.randn(1024, 1024)
    for _ in range(3):
        torch.mm(a, b)
    deadline, best = time.perf_counter() + 0.3, float("inf")
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)  # the best round: the rest were held up by something else
    return 2 * 512 * 1024 * 1024 / best
