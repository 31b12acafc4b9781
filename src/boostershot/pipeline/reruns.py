"""The worst attack that a search found, run again with fresh seeds, and on a second source of harmful prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from boostershot.pipeline.attack_search import Arm, Attacked, evaluate_attacked, perplexity_at, perplexity_before
from boostershot.pipeline.orders import Map, Task
from boostershot.pipeline.property_stages import second_data, varied
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import result, told
from boostershot.pipeline.sweep_rows import rows_there


@dataclass(frozen=True)
class Rerun:
    """The worst attack on one defence with another seed: its scores and utility, or why there are none."""

    seed: int
    evaluation: Path | None
    error: str | None = None
    utility: float | None = None


def rerun_winners(arms: Sequence[Arm], do: Map) -> dict[str, list[Rerun]]:
    """The worst case within the bound of each defence, again with the fresh seeds; none where it has none."""
    wanted: list[tuple[Arm, int, tuple[Attacked, str | None]]] = []
    for arm in arms:
        winner = arm.worst(arm.settings.bound)
        if winner is not None:
            trial = next(one for one in arm.trials if one.number == winner.number)
            for number, seed in enumerate(arm.settings.seeds, start=1):
                label = f"{arm.label}, trial {trial.number}, re-run {number}"
                attack = Attacked(label, arm.again(trial).settings, arm.immunized, seed, changes=arm.changes)
                wanted.append((arm, seed, (attack, arm.label if arm.settings.realign else None)))
    folders = do([Task(_evaluate_again, args) for *_, args in wanted])
    useful = _utilities_again(wanted, folders, do)
    _measure_references([arm for arm in arms if any(arm is one for one, *_ in wanted)], do)
    found: dict[str, list[Rerun]] = {arm.label: [] for arm in arms}
    for (arm, seed, _), folder, utility in zip(wanted, folders, useful, strict=True):
        evaluation, error = _outcome(folder)
        if isinstance(utility, Exception):
            error = error or told(utility)
        found[arm.label].append(Rerun(seed, evaluation, error, utility if isinstance(utility, float) else None))
    return found


def _utilities_again(
    wanted: Sequence[tuple[Arm, int, tuple[Attacked, str | None]]], folders: Sequence[Path | Exception], do: Map
) -> list[float | Exception | None]:
    """The utility after each re-run that was scored."""
    found: list[float | Exception | None] = [None] * len(wanted)
    texts = []
    for position, ((arm, *_), folder) in enumerate(zip(wanted, folders, strict=True)):
        if arm.settings.utility == "perplexity":
            texts.append(position)
        elif isinstance(folder, Path):
            found[position] = result(folder)["finetune_accuracy"]
    done = do([Task(_perplexity_again, wanted[position][2]) for position in texts])
    for position, folder in zip(texts, done, strict=True):
        found[position] = 1 / perplexity_at(folder) if isinstance(folder, Path) else folder
    return found


def _measure_references(arms: Sequence[Arm], do: Map) -> None:
    """The utility that the re-runs' is held against, on the same models. Which fine-tuning it is of was chosen on dev.

    Over models that were aligned anew it is the mean.
    """
    wanted: list[tuple[Arm, Task]] = []
    for arm in arms:
        models = arm.settings.seeds if arm.settings.realign else (None,)
        if arm.settings.utility == "perplexity":
            arm.reference = arm.untampered
            if arm.settings.realign:
                wanted += [(arm, Task(_perplexity_realigned, (arm.label, seed, arm.changes))) for seed in models]
        elif (best := arm.most_useful()) is not None:
            wanted += [(arm, Task(_evaluate_on, (best, arm.changes, arm.label, seed))) for seed in models]
    found = do([task for _, task in wanted])
    for arm in arms:
        utilities = [
            _reference_in(folder, arm) if isinstance(folder, Path) else None
            for (of, _), folder in zip(wanted, found, strict=True)
            if of is arm
        ]
        if utilities:
            known = [one for one in utilities if one is not None]
            arm.reference = sum(known) / len(known) if len(known) == len(utilities) else None


def _reference_in(folder: Path, arm: Arm) -> float | None:
    accuracy = arm.settings.utility == "accuracy"
    return result(folder)["finetune_accuracy"] if accuracy else 1 / perplexity_at(folder)


def _evaluate_on(run: Stages, attack: Attacked, scored: Mapping[str, Any], defense: str, seed: int | None) -> Path:
    """The scores after the attack on what is scored in the end; on the model aligned with the seed, if one is given."""
    named = replace(attack, label=f"{attack.label}, on {run.recipe.evaluate.split}")
    if seed is not None:
        named = replace(
            named, label=f"{named.label}, aligned with {seed}", immunized=varied(run, scored).immunized(defense, seed)
        )
    return named.evaluate(run, scored)


def _perplexity_realigned(run: Stages, defense: str, seed: int, changes: Mapping[str, Any]) -> Path:
    immunized = varied(run, changes).immunized(defense, seed)
    return perplexity_before(run, f"{defense}, aligned with {seed}", immunized, changes)


def _outcome(found: Path | Exception) -> tuple[Path | None, str | None]:
    """A stage's folder, or why there is none."""
    return (found, None) if isinstance(found, Path) else (None, told(found))


def _evaluate_again(run: Stages, attack: Attacked, defense: str | None) -> Path:
    """The scores after the attack; on the model of this defence aligned with the attack's seed, where one is named."""
    return _realigned(run, attack, defense).evaluate(run)


def _perplexity_again(run: Stages, attack: Attacked, defense: str | None) -> Path:
    return _realigned(run, attack, defense).perplexity(run)


def _realigned(run: Stages, attack: Attacked, defense: str | None) -> Attacked:
    if defense is None:
        return attack
    return replace(attack, immunized=varied(run, attack.changes).immunized(defense, attack.seed))


@dataclass(frozen=True)
class Elsewhere:
    """An attack with the rows of the second source and its scores on that source's prompts, or why there are none.

    `attack` is "default" (what the trials start from) or "worst" (the worst case within the bound); `samples` are the
    rows that it had, fewer than in the search where the source has no more.
    """

    attack: str
    samples: int
    evaluation: Path | None
    error: str | None = None


def attack_elsewhere(arms: Sequence[Arm], do: Map) -> dict[str, list[Elsewhere]]:
    """Both attacks on each defence, on a second source where the recipe names one; no worst where there is none."""
    wanted: list[tuple[Arm, str, Attacked]] = []
    for arm in arms:
        spec = arm.settings.second
        if spec is None:
            continue
        worst = arm.worst(arm.settings.bound)
        default = arm.base.model_copy(update={"eval_steps": (arm.base.total_steps,)})
        changes = {**arm.changes, "data": second_data(arm.stages.recipe.data, spec)}
        have = rows_there(arm.run, changes, do)
        trials = [
            ("worst", have.cut(arm.again(trial).settings))
            for trial in arm.trials
            if worst and trial.number == worst.number
        ]
        for attack, settings in [("default", have.cut(default)), *trials]:
            label = f"{arm.label}, {attack} attack on the second source"
            wanted.append((arm, attack, Attacked(label, settings, arm.immunized, arm.seed, changes=changes)))
    found: dict[str, list[Elsewhere]] = {arm.label: [] for arm in arms}
    done = do([Task(evaluate_attacked, (under,)) for *_, under in wanted])
    for (arm, attack, under), folder in zip(wanted, done, strict=True):
        found[arm.label].append(Elsewhere(attack, under.settings.attack.n, *_outcome(folder)))
    return found
