"""What a run will do, and how long it will take here: the work of its stages over this machine's speed, both rough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from boostershot.config import Recipe, build_defense
from boostershot.data.harmful import BUILT_IN
from boostershot.defenses.finishing import stages_of
from boostershot.pipeline.data import LOSS_ROWS, STEERING_ROWS

# Tokens beyond the preamble that all rows share; data sets are not read for a plan, so these are typical ones.
PROMPT = 22
ANSWER = 70  # of a source with answers of its own, such as BeaverTails
TASK_ROW = 50
CALIBRATION_ROWS = 400
UNKNOWN_ROWS = 500  # where a recipe names no number

EFFICIENCY = 0.55  # of the matrix-multiply speed, that a whole step reaches on the embedded model


@dataclass(frozen=True)
class Planned:
    """A stage that a run needs.

    Args:
        what: in words.
        tokens: that the model reads.
        steps: of the optimiser.
        passes: forward-backward passes over a batch; a method's passes a step may be a fraction.
    """

    what: str
    tokens: float
    steps: int = 0
    passes: float = 0

    @property
    def work(self) -> float:
        """Forward passes of one token; forward and backward (LoRA) count 2."""
        return self.tokens * (2 if self.steps else 1)


def planned(recipe: Recipe) -> Iterator[Planned]:
    """The stages of a recipe, shared ones once, from its own numbers: no data set or model is read."""
    settings, evaluate, data = recipe.immunize, recipe.evaluate, recipe.data
    rows = data.align.n or UNKNOWN_ROWS
    defenses = {label: build_defense(given, f"defenses.{label}") for label, given in recipe.defenses.items()}
    written = data.align.source in BUILT_IN
    row = min(PROMPT + (data.answer_tokens if written else ANSWER), data.max_length)
    answers = rows + max(round(a.p * a.n) for a in recipe.attacks.values()) + min(evaluate.n_harmful, LOSS_ROWS)
    answers += STEERING_ROWS if any("dev" in defense.needs() for defense in defenses.values()) else 0
    yield Planned(
        "data: splits, harmful answers of the un-aligned model where the source has none",
        answers * (PROMPT + data.answer_tokens) if written else 0,
    )
    yield Planned("calibrate: the offline judge", CALIBRATION_ROWS * (PROMPT + evaluate.max_new_tokens))
    one = evaluate.n_harmful * (2 * PROMPT + 3 * evaluate.max_new_tokens) + min(evaluate.n_harmful, LOSS_ROWS) * row
    one += evaluate.n_task * TASK_ROW
    yield Planned("evaluate: the un-aligned model", one)
    steps = settings.steps_over(rows)
    for label, defense in defenses.items():
        alignment, stages = stages_of(defense)
        trainings = [(steps, alignment.passes), *((s.finish_steps, s.finish_cost.passes) for s in stages)]
        lengths = [f"{n:,} steps of {p:.4g} pass{'es' * (p != 1)}" for n, p in trainings if n]
        passes = sum(n * p for n, p in trainings)
        for seed in recipe.seeds:
            name = f"{label}, seed {seed}"
            yield Planned(
                f"immunize: {name}, {' and '.join(lengths)} over {settings.batch} rows",
                passes * settings.batch * row,
                sum(n for n, _ in trainings),
                passes,
            )
            yield Planned(f"evaluate: {name}, before the attack", one)
            met: dict[str, list[str]] = {}  # the attack as this defence meets it -> its labels
            for attack, a in recipe.attacks.items():
                met.setdefault(a.against(recipe.defenses[label]).model_dump_json(), []).append(attack)
            for attacks in met.values():
                attack, a = " and ".join(attacks), recipe.attacks[attacks[0]].against(recipe.defenses[label])
                length = a.total_steps
                yield Planned(
                    f"attack: {name}, {attack} ({a.adapter}), {length:,} steps of {a.batch} rows, lr {a.lr:g}, "
                    f"p {a.p:g}, n {a.n:,}",
                    length * a.batch * (a.p * row + (1 - a.p) * TASK_ROW),
                    length,
                    length,
                )
                scored = [step for step in a.eval_steps if step > 0 and a.judged]
                if scored:
                    yield Planned(f"evaluate: {name}, {attack}, after {scored} steps", one * len(scored))


def in_words(tokens: float) -> str:
    """Such as 940, 15.8 k, 3.2 M, 41 G."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def seconds_here(recipe: Recipe, parameters: int) -> float:
    """An estimate of the run's duration on this machine, for a model of this many parameters."""
    work = sum(stage.work for stage in planned(recipe))
    return 2 * parameters * work / (EFFICIENCY * multiply_speed())


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
