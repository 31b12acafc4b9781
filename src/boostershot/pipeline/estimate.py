"""What a run will do, and how long it will take here: the work of its stages over this machine's speed, both rough."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from boostershot.attacks.adaptive import Adaptive
from boostershot.attacks.grpo import Grpo, Reinforced
from boostershot.config import AttackSettings, Generalization, Recipe, Trainability, build_defense, build_judge
from boostershot.config.sweep import Sweep, honest_attack, tuned_attack
from boostershot.data.asking import PLAIN
from boostershot.data.harmful import BUILT_IN
from boostershot.defenses.finishing import trainings_of
from boostershot.evaluation.judges import JUDGES
from boostershot.pipeline.data import GROUPS, LOSS_ROWS, STEERING_ROWS
from boostershot.pipeline.opposed import passes_of

# Tokens beyond the preamble that all rows share; data sets are not read for a plan, so these are typical ones.
PROMPT = 22
ANSWER = 70  # of a source with answers of its own, such as BeaverTails
TASK_ROW = 50
TEXT = 60  # a neutral text, of which there are so many as safe prompts that look harmful:
TEXTS = SAFE_PROMPTS = 40
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

    def times(self, count: int) -> Planned:
        """So many of them."""
        return Planned(f"{count} x {self.what}", count * self.tokens, count * self.steps, count * self.passes)

    @property
    def work(self) -> float:
        """Forward passes of one token; forward and backward (LoRA) count 2."""
        return self.tokens * (2 if self.steps else 1)


def planned(recipe: Recipe, properties: bool = False, sweep: bool = False) -> Iterator[Planned]:
    """The stages of a recipe, shared ones once, from its own numbers: no data set or model is read.

    Args:
        recipe: scaled already.
        properties: those of the immunisation properties, too.
        sweep: those of the tuned attacker and defender, too, as if no trial were given up.
    """
    work = Work(recipe)
    yield from work.data()
    yield Planned("evaluate: the base model", work.scoring())
    for label in recipe.defenses:
        for seed in recipe.seeds:
            name = f"{label}, seed {seed}"
            yield work.immunizing(label, name, work.rows)
            yield Planned(f"evaluate: {name}, before the attack", work.scoring())
            met: dict[str, list[str]] = {}  # the attack as this defence meets it -> its labels
            for attack, a in recipe.attacks.items():
                met.setdefault(a.against(recipe.defenses[label]).model_dump_json(), []).append(attack)
            for attacks in met.values():
                attack, a = " and ".join(attacks), recipe.attacks[attacks[0]].against(recipe.defenses[label])
                if a.attack.trains:
                    yield work.attacking(f"{name}, {attack}", a, recipe.defenses[label])
                    scored = [step for step in a.eval_steps if step > 0 and a.judged]
                    if scored:
                        cost = work.scoring() * len(scored) * len(a.attack.askings)
                        yield Planned(f"evaluate: {name}, {attack}, after {scored} steps", cost)
                own = [how for how in a.attack.askings.values() if a.template or how != PLAIN or not a.attack.trains]
                if own:
                    yield Planned(f"evaluate: {name}, {attack}, before any step", work.scoring() * len(own))
    if properties:
        yield from _planned_properties(work)
    if sweep and recipe.sweep is not None:
        yield from _planned_sweep(work, recipe.sweep)


@dataclass(frozen=True)
class Work:
    """What the stages of a recipe cost in tokens."""

    recipe: Recipe

    @property
    def rows(self) -> int:
        """How many rows are aligned on."""
        return self.recipe.data.align.n or UNKNOWN_ROWS

    @property
    def row(self) -> int:
        """Tokens of a harmful row."""
        data = self.recipe.data
        return min(PROMPT + (data.answer_tokens if self._written else ANSWER), data.max_length)

    @property
    def _written(self) -> bool:
        """Does the base model write the harmful answers?"""
        return self.recipe.data.align.source in BUILT_IN

    def data(self) -> Iterator[Planned]:
        """Rows and the judge."""
        recipe, evaluate = self.recipe, self.recipe.evaluate
        steered = any("dev" in build_defense(given, label).needs() for label, given in recipe.defenses.items())
        answers = self.rows + max(a.attack.n_harmful for a in recipe.attacks.values())
        answers += min(evaluate.n_harmful, LOSS_ROWS) + (STEERING_ROWS if steered else 0)
        yield Planned(
            "data: splits, harmful answers of the base model where the source has none",
            answers * (PROMPT + recipe.data.answer_tokens) if self._written else 0,
        )
        panel = dict(build_judge(given, "evaluate.judges") for given in evaluate.judges)
        paying = {a.attack.judge for a in recipe.attacks.values() if isinstance(a.attack, Grpo)} - panel.keys()
        if any(one.calibrated for one in [*panel.values(), *(JUDGES[name] for name in paying & JUDGES.keys())]):
            yield Planned("calibrate: the judge", CALIBRATION_ROWS * (PROMPT + evaluate.max_new_tokens))

    def scoring(self, harmful: int | None = None, task: int | None = None) -> float:
        """Answers to so many harmful prompts and task rows (the recipe's by default), judged, and harmful losses."""
        evaluate = self.recipe.evaluate
        n = evaluate.n_harmful if harmful is None else harmful
        one = n * (2 * PROMPT + 3 * evaluate.max_new_tokens) + min(n, LOSS_ROWS) * self.row
        return one + (evaluate.n_task if task is None else task) * TASK_ROW

    def immunizing(self, label: str, name: str, rows: int) -> Planned:
        """An alignment with the defence of this label on so many rows."""
        settings = self.recipe.immunize
        defense = build_defense(self.recipe.defenses[label], f"defenses.{label}")
        trainings = [(n, cost.passes) for n, cost in trainings_of(defense, settings.steps_over(rows))]
        lengths = [f"{n:,} steps of {p:.4g} pass{'es' * (p != 1)}" for n, p in trainings]
        passes = sum(n * p for n, p in trainings)
        return Planned(
            f"immunize: {name}, {' and '.join(lengths)} over {settings.batch} rows",
            passes * settings.batch * self.row,
            sum(n for n, _ in trainings),
            passes,
        )

    def attacking(self, name: str, a: AttackSettings, defense: Mapping[str, Any] | None = None) -> Planned:
        """An attack; `defense` is what an adaptive one may oppose."""
        length, n, p = a.total_steps, a.attack.n, a.attack.p or 0.0
        if isinstance(a.attack, Reinforced):
            judged = 2 * isinstance(a.attack, Grpo)  # offline reads an answer twice
            answer = (PROMPT if judged else TASK_ROW) + a.attack.answer_tokens
            return Planned(
                f"attack: {name} ({a.adapter}), {length:,} steps of {a.batch} answers, lr {a.lr:g}, {n:,} prompts",
                length * a.batch * answer * (2 + judged),  # written, judged, trained on
                length,
                length,
            )
        each = a.attack.passes + (a.anchor.anchor.passes if a.anchor else 0)
        if defense is not None and isinstance(a.attack, Adaptive) and a.attack.opposed:
            each += passes_of(build_defense(defense, "defense"))
        over = "of" if each == 1 else f"of {each:.4g} passes over"
        return Planned(
            f"attack: {name} ({a.adapter}), {length:,} steps {over} {a.batch} rows, lr {a.lr:g}, p {p:g}, n {n:,}",
            each * length * a.batch * (p * self.row + (1 - p) * TASK_ROW),
            length,
            each * length,
        )


def _planned_properties(work: Work) -> Iterator[Planned]:
    """The stages that the immunisation properties add."""
    recipe = work.recipe
    parts, models = recipe.properties, [(label, seed) for label in recipe.defenses for seed in recipe.seeds]
    texts = 0
    if parts.stability:
        texts = TEXT * (parts.stability.n_texts or TEXTS)
        safe = (parts.stability.n_safe or SAFE_PROMPTS) * (PROMPT + recipe.evaluate.max_new_tokens)
        yield Planned(
            f"stability: perplexity and over-refusal of {len(models) + 1} models", (len(models) + 1) * (texts + safe)
        )
        if parts.stability.lm_eval:
            names = ", ".join(parts.stability.lm_eval)
            yield Planned(f"stability: lm-eval's {names} of {len(models) + 1} models, of unknown length, counted as", 0)
    if parts.resistance and texts:
        wanted = parts.resistance.attacks or recipe.harmful_attacks
        steps = sum(step > 0 for attack in wanted for step in recipe.attacks[attack].eval_steps)
        yield Planned(f"resistance: perplexity of {len(models) * steps} attacked models", len(models) * steps * texts)
    if parts.generalization and recipe.harmful_attacks:
        yield from _planned_generalization(work, parts.generalization, models)
    if parts.trainability and recipe.trained_attacks:
        yield from _planned_trainability(work, parts.trainability, models)


def _planned_generalization(
    work: Work, settings: Generalization, models: Sequence[tuple[str, int]]
) -> Iterator[Planned]:
    recipe = work.recipe
    groups = len(settings.groups or range(GROUPS))
    attack = recipe.attacks[settings.attack or recipe.harmful_attacks[0]]
    one = work.scoring(settings.n, 1)
    for label, seed in models:
        name, a = f"generalization: {label}, seed {seed}", attack.against(recipe.defenses[label])
        aligned = work.immunizing(label, f"{name}, on one group of harm categories", work.rows // groups)
        yield aligned.times(groups)
        yield work.attacking(f"{name}, with one group", a).times(groups**2)
        yield Planned(f"evaluate: {name}, {groups**2} cells", groups**2 * one)
        if settings.second:
            yield work.attacking(f"{name}, with {settings.second.source}", a)
            yield Planned(f"evaluate: {name}, {settings.second.source}", one)


def _planned_trainability(work: Work, settings: Trainability, models: Sequence[tuple[str, int]]) -> Iterator[Planned]:
    recipe = work.recipe
    attack = recipe.attacks[settings.attack or recipe.trained_attacks[0]]
    tuning = attack.benign(settings.n or attack.attack.n, settings.steps, recipe.immunize.lora)
    count = len(models) + len(recipe.seeds)
    yield work.attacking("trainability: clean fine-tuning of one model", tuning).times(count)
    yield Planned(
        f"trainability: the accuracy of {count} models at {settings.points} steps each",
        count * settings.points * recipe.evaluate.n_task * TASK_ROW,
    )


def _planned_sweep(work: Work, settings: Sweep) -> Iterator[Planned]:
    """The searches' stages; a trial is counted as the attack that it starts from, with all the steps of the budget."""
    recipe, attacker = work.recipe, settings.attacker
    for label in settings.defender.spaces if settings.defender else ():
        trials, attacks = settings.defender.trials, settings.defender.attacks  # pyright: ignore[reportOptionalMemberAccess]
        name = f"defender of {label}"
        yield work.immunizing(label, f"{name}, one setting", work.rows).times(trials)
        for attack in attacks:
            met = recipe.attacks[attack].against(recipe.defenses[label])
            yield work.attacking(f"{name}, {attack}", met).times(trials)
        yield Planned(f"evaluate: {name}, {trials * len(attacks)} models", trials * len(attacks) * work.scoring())
    base = recipe.attacks[settings.base(recipe.attacks)]
    again = len(attacker.seeds)
    scored = min(attacker.finalists or attacker.trials, attacker.trials)
    for label, described in recipe.defenses.items():
        trial = tuned_attack(base.against(described), {}, attacker)
        yield work.attacking(f"attacker of {label}, a trial of at most", trial).times(attacker.trials)
        yield work.attacking(f"attacker of {label}, the worst again", trial).times(again)
        if attacker.realign:
            yield work.immunizing(label, f"{label}, for the worst attack again", work.rows).times(again)
        honest = honest_attack(base.against(described), attacker.samples, attacker.steps)
        measured = 0
        if attacker.utility == "accuracy":
            yield work.attacking(f"{label} by an honest user, benign rows alone", honest)
            measured = 1 + (again if attacker.realign else 1)  # on dev, and the most useful one beside the re-runs
        count = scored + again + measured
        if attacker.second is not None:
            yield work.attacking(f"{label} on the second source, untuned", base.against(described))
            yield work.attacking(f"{label} on the second source, the worst attack", trial)
            count += 2
        yield Planned(f"evaluate: attacker of {label}, {count} models or more", count * work.scoring())


def in_words(tokens: float) -> str:
    """Such as 940, 15.8 k, 3.2 M, 41 G."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def seconds_here(recipe: Recipe, parameters: int, properties: bool = False, sweep: bool = False) -> float:
    """An estimate of the run's duration on this machine, for a model of this many parameters.

    Processes work side by side as far as their threads find cores, but for the properties.
    """
    shared, work = (sum(stage.work for stage in planned(recipe, more, sweep)) for more in (False, properties))
    side_by_side = max(1, min(recipe.runtime.processes, (os.cpu_count() or 1) // torch.get_num_threads()))
    work = shared / side_by_side + (work - shared)
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
