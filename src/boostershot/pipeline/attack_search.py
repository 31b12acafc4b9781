"""An attacker's search against every defence: its trials as stages, the finalists' scores, the worst one run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from boostershot.attacks.search import Search, Trial, limits
from boostershot.config import AttackSettings, Recipe
from boostershot.config.space import Space
from boostershot.config.sweep import Attacker, honest_attack, own_length, tuned_attack, untuned_values
from boostershot.errors import InputError, StageFailed
from boostershot.evaluation.properties.stability import perplexity_of
from boostershot.evaluation.worst_case import Tried, utility_loss, within, worst_case
from boostershot.models import Layer
from boostershot.pipeline.answer_stages import Asked
from boostershot.pipeline.attack_stages import attacked, layers_of
from boostershot.pipeline.data import rows_hash
from boostershot.pipeline.files import read_json, read_jsonl
from boostershot.pipeline.orders import Map, Task
from boostershot.pipeline.property_stages import PropertyStages, varied
from boostershot.pipeline.stages import RULES, Stages
from boostershot.pipeline.store import result, told
from boostershot.pipeline.sweep_rows import Rows

STORAGE = "sweep.sqlite"
TIE = 1e-4  # of a nat of harmful loss against a point of harmful score: it only ever breaks ties


@dataclass(frozen=True)
class Attacked:
    """An immunised model under an attack.

    Args:
        settings: of the attack.
        immunized, seed: as for `attacked`.
        limits: as for `attacked`.
        changes: sections of the recipe in place of the run's own.
    """

    label: str
    settings: AttackSettings
    immunized: Path
    seed: int
    limits: Mapping[int, float | None] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def _of(self, run: Stages) -> Stages:
        return varied(run, self.changes)

    def attack(self, run: Stages) -> Path:
        """The attack's stage."""
        return attacked(self._of(run), self.label, self.settings, self.immunized, self.seed, self.limits)

    def layers(self, folder: Path) -> list[Layer]:
        """The attacked model, from the attack's stage."""
        return layers_of(self.immunized, folder, self.settings.total_steps, self.settings.adapter)

    def evaluate(self, run: Stages, scored: Mapping[str, Any] | None = None) -> Path:
        """Its scores by the recipe's first judge, asked in the attacker's own way.

        Args:
            run: the stages of the run.
            scored: sections of the recipe that say what is asked, where those are not the attack's.
        """
        asked = Asked(self.settings.template, next(iter(self.settings.attack.askings.values())))
        folder = self.attack(run)
        stages = self._of(run) if scored is None else varied(run, scored)
        found = stages.evaluated(folder, self.layers(folder), self.label, None, asked)
        if result(found)["harmful_score"] is None:
            raise RuntimeError("the judge has no verdict on any answer")
        return found

    def perplexity(self, run: Stages) -> Path:
        """The neutral texts under it."""
        folder = self.attack(run)
        return PropertyStages(self._of(run)).perplexity(folder, self.layers(folder), self.label)


@dataclass
class Arm:
    """One defence under the attacker's search.

    Args:
        label: of the defence.
        run: the stages of the run.
        changes: what the defender chose in place of the recipe's own, as sections of it.
        settings: the attacker's.
        base: the attack that trials start from, as this defence meets it.
        immunized: the model.
        have: how many rows there are to attack with; a trial that wants more has fewer.
        untampered: the utility before the attack (None: not measured).
        honest: the utility after the attack's own training on benign rows alone.
        reference: the utility that the re-runs' is held against: of the fine-tuning that was the best on dev, as it is
            on the rows of the re-runs, or `untampered`. None before the re-runs.
    """

    label: str
    run: Stages
    changes: Mapping[str, Any]
    settings: Attacker
    base: AttackSettings
    immunized: Path
    have: Rows
    untampered: float | None = None
    honest: float | None = None
    reference: float | None = None
    evaluations: dict[int, Path] = field(default_factory=dict)  # trial -> its scores
    failed: dict[int, str] = field(default_factory=dict)  # trial -> why it could not be scored
    unmeasured: str | None = None  # why the utility that the bound is relative to is not known

    @property
    def stages(self) -> Stages:
        """Those of the defence as it is attacked."""
        return varied(self.run, self.changes)

    @property
    def seed(self) -> int:
        """Of the search's attacks."""
        return self.stages.recipe.seeds[0]

    @property
    def trials(self) -> Sequence[Trial]:
        """The finished ones."""
        return self.search.finished

    @cached_property
    def search(self) -> Search:
        """Its trials; a search of another name where anything that decides them is another."""
        settings = self.settings
        space = settings.budgeted
        deciding = {
            "immunized": self.immunized.name,
            "base": self.base.model_dump(mode="json"),
            "budget": [settings.steps, settings.samples, settings.generation],
            "rows": [self.have.harmful, self.have.benign],
            "space": space.to_dict(),
            "goal": ["harmful loss" if settings.finalists else "harmful score", settings.utility, settings.bound],
            "give_up": settings.checkpoints,
            **inputs_of(self.stages),
            "texts": texts_of(self.stages) if settings.utility == "perplexity" else None,
            "seed": self.seed,
        }
        first = untuned_values(self.base, settings)
        return search_of(self.stages, self.label, deciding, space, settings.generation, first)

    @property
    def searching(self) -> Mapping[str, Any]:
        """Sections in place of the run's own during the search, which chooses and therefore scores on dev."""
        return {**self.changes, **on_dev(self.run.recipe)}

    def tried(self, number: int, values: Mapping[str, Any], limits: Mapping[int, float | None]) -> Attacked:
        """The attack of a trial."""
        chosen = self.search.space.derived(values)
        if number == 0 and self.search.first is not None:
            chosen = own_length(self.base, self.settings) | chosen  # as it stands in the recipe
        wanted = tuned_attack(self.base, chosen, self.settings)
        settings = self.have.cut(wanted)
        total = settings.total_steps
        early = {step: limit for step, limit in limits.items() if settings.attack.prelude * total < step < total}
        return Attacked(f"{self.label}, trial {number}", settings, self.immunized, self.seed, early, self.searching)

    def again(self, trial: Trial) -> Attacked:
        """The attack of a finished trial, just as it was run."""
        return self.tried(trial.number, trial.values, {int(step): one for step, one in trial.facts["limits"].items()})

    def benign(self) -> Attacked:
        """The attack's own training by an honest user, with all the steps and rows of the budget."""
        settings = honest_attack(self.base, min(self.settings.samples, self.have.benign), self.settings.steps)
        return Attacked(f"{self.label}, benign rows only", settings, self.immunized, self.seed, changes=self.searching)

    def utility(self, attack: Attacked, evaluation: Path | None) -> float | None:
        """Of an attacked model: the accuracy, or one over the perplexity; higher is better."""
        if self.settings.utility == "accuracy":
            return result(evaluation)["finetune_accuracy"] if evaluation else None
        return 1 / perplexity_at(attack.perplexity(self.run))

    @property
    def best(self) -> float | None:
        """The best utility: of the model before the attack for a perplexity, of all fine-tunings for an accuracy."""
        if self.settings.utility == "perplexity":
            return self.untampered
        known = [self.honest, *(trial.facts.get("utility") for trial in self.trials)]
        known += [result(folder)["finetune_accuracy"] for folder in self.evaluations.values()]
        return max((one for one in known if one is not None), default=None)

    def excess(self, trial: Trial) -> float | None:
        """How far a trial's utility lies below the bound, of the best that is known now; None without a utility."""
        utility = trial.facts.get("utility")
        if utility is None:
            return None
        lost = utility_loss(utility, max(utility, utility if self.best is None else self.best))
        return 1.0 if lost is None else lost - self.settings.bound

    def most_useful(self) -> Attacked | None:
        """The fine-tuning, an honest one or a trial, whose accuracy is the best on dev."""
        known = [(self.honest, self.benign)] if self.honest is not None else []
        for trial in self.trials:
            judged = self.evaluations.get(trial.number)
            utility = result(judged)["finetune_accuracy"] if judged else trial.facts.get("utility")
            if utility is not None:
                known.append((utility, partial(self.again, trial)))
        return max(known, key=lambda one: one[0])[1]() if known else None

    def scored(self) -> list[Tried]:
        """The trials whose answers were judged."""
        found = []
        for trial in self.trials:
            if trial.number in self.evaluations:
                figures, attack = result(self.evaluations[trial.number]), self.again(trial)
                found.append(
                    Tried(
                        trial.number,
                        attack.settings.total_steps,
                        attack.settings.attack.n,
                        figures["harmful_score"],
                        trial.facts["harmful_loss"],
                        self.utility(attack, self.evaluations[trial.number]),
                    )
                )
        return found

    def worst(self, epsilon: float | None) -> Tried | None:
        """The worst case within a bound."""
        return worst_case(self.scored(), self.best, epsilon)


def on_dev(recipe: Recipe) -> dict[str, Any]:
    """The section of the recipe that has dev prompts and dev rows of the task scored: for whatever chooses."""
    return {"evaluate": recipe.evaluate.model_copy(update={"split": "dev"})}


def inputs_of(stages: Stages) -> dict[str, Any]:
    """What a search's trials are made of and scored by: contents, and not the paths that a recipe names."""
    data, judge = stages.data, next(iter(stages.panel.values()))
    return {
        **stages.identity(),
        "data": stages.recipe.data.model_dump(mode="json"),
        "evaluate": stages.recipe.evaluate.model_dump(mode="json"),
        "harmful": data.harmful_identity(),
        "unpaired": data.unpaired_identity(),
        "task": data.task_identity(),
        "scoring": data.scoring_identity(),
        "general": data.general_identity() if stages.recipe.data.general else None,
        "judge": [judge.version, RULES],
    }


def texts_of(stages: Stages) -> str:
    """The neutral texts that a perplexity is of."""
    return rows_hash([text for row in PropertyStages(stages).texts for text in (row.prompt, row.completion)])


def search_of(
    stages: Stages,
    name: str,
    deciding: Mapping[str, Any],
    space: Space,
    generation: int,
    first: Mapping[str, Any] | None,
) -> Search:
    """A search in the run's file, of another name where anything in `deciding` is another; the rest as for `Search`."""
    key = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]
    return Search(stages.store.root / STORAGE, f"{name} {key}", space, stages.recipe.seeds[0], generation, first)


Proposed = tuple[Arm, int, Mapping[str, Any], Attacked | InputError]  # number, values; no attack takes all of them


def search_attacks(arms: Sequence[Arm], do: Map) -> None:
    """Search against all defences, generation by generation, so that the trials of all may run at once."""
    _measure_honest(arms, do)
    while True:
        proposed: list[Proposed] = []
        for arm in arms:
            settings, search = arm.settings, arm.search
            # Half a generation: the first trial may be too short to be compared, and others may fail.
            bars = limits(search.whole, settings.checkpoints, (settings.generation + 1) // 2)
            for number, values in enumerate(search.propose(settings.trials, arm.excess), len(search.finished)):
                proposed.append((arm, number, values, _put_together(arm, number, values, bars)))
        if not proposed:
            break
        folders = _attacked(proposed, do)
        scored = _scored_in_search(proposed, folders, do)
        for arm in arms:
            arm.search.tell(
                [
                    _trial(arm, number, values, attack, folder, score)
                    for (of, number, values, attack), folder, score in zip(proposed, folders, scored, strict=True)
                    if of is arm
                ]
            )
    _score_finalists(arms, do)


def _put_together(
    arm: Arm, number: int, values: Mapping[str, Any], bars: Mapping[int, float | None]
) -> Attacked | InputError:
    try:
        return arm.tried(number, values, bars)
    except InputError as error:
        return error


def _attacked(proposed: Sequence[Proposed], do: Map) -> list[Path | Exception]:
    """The stages of the attacks, or why there is none."""
    found = iter(do([Task(_attack, (attack,)) for *_, attack in proposed if isinstance(attack, Attacked)]))
    return [next(found) if isinstance(attack, Attacked) else StageFailed(str(attack)) for *_, attack in proposed]


def _measure_honest(arms: Sequence[Arm], do: Map) -> None:
    """The utility that a bound is relative to."""
    accuracy = [arm for arm in arms if arm.settings.utility == "accuracy"]
    for arm, found in zip(accuracy, do([Task(evaluate_attacked, (arm.benign(),)) for arm in accuracy]), strict=True):
        if isinstance(found, Path):
            arm.honest = result(found)["finetune_accuracy"]
        else:
            arm.unmeasured = f"benign rows only: {told(found)}"
    texts = [arm for arm in arms if arm.settings.utility == "perplexity"]
    tasks = [Task(perplexity_before, (arm.label, arm.immunized, arm.changes)) for arm in texts]
    for arm, found in zip(texts, do(tasks), strict=True):
        if isinstance(found, Path):
            arm.untampered = 1 / perplexity_at(found)
        else:
            arm.unmeasured = f"the perplexity before the attack: {told(found)}"


def _scored_in_search(
    proposed: Sequence[Proposed], folders: Sequence[Path | Exception], do: Map
) -> list[Path | Exception | None]:
    """What a trial that came to its end is told of beside its harmful loss: its scores, where the search follows them.

    The perplexity, where it is the utility, is there afterwards; a failure to measure it stands in the scores' place.
    """
    over = [
        position
        for position, folder in enumerate(folders)
        if isinstance(folder, Path) and not result(folder).get("given_up")
    ]
    found: list[Path | Exception | None] = [None] * len(proposed)
    for position, score in _done_at(over, proposed, do, lambda arm: arm.settings.finalists is None, evaluate_attacked):
        found[position] = score
    for position, texts in _done_at(
        over, proposed, do, lambda arm: arm.settings.utility == "perplexity", _perplexity_after
    ):
        if isinstance(texts, Exception):
            found[position] = texts
    return found


def _done_at(
    positions: Sequence[int],
    proposed: Sequence[Proposed],
    do: Map,
    wanted: Callable[[Arm], bool],
    work: Callable[[Stages, Attacked], Path],
) -> list[tuple[int, Path | Exception]]:
    """The work on the attacks at those of the positions whose defence's search wants it."""
    some = [position for position in positions if wanted(proposed[position][0])]
    return list(zip(some, do([Task(work, (proposed[position][3],)) for position in some]), strict=True))


def _attack(run: Stages, attack: Attacked) -> Path:
    return attack.attack(run)


def evaluate_attacked(run: Stages, attack: Attacked) -> Path:
    """The task of an attack's scores."""
    return attack.evaluate(run)


def perplexity_before(run: Stages, label: str, immunized: Path, changes: Mapping[str, Any]) -> Path:
    """The neutral texts under an immunised model that nobody has attacked."""
    layers = layers_of(immunized, None, 0, "continue")
    return PropertyStages(varied(run, changes)).perplexity(immunized, layers, f"{label}, before the attack")


def _perplexity_after(run: Stages, attack: Attacked) -> Path:
    return attack.perplexity(run)


def _trial(
    arm: Arm,
    number: int,
    values: Mapping[str, Any],
    attack: Attacked | InputError,
    folder: Path | Exception,
    score: Path | Exception | None,
) -> Trial:
    """What came of a trial, as the search keeps it."""
    facts: dict[str, Any] = {}
    error = next((one for one in (folder, score) if isinstance(one, Exception)), None)
    if isinstance(attack, Attacked):
        facts = {"limits": {str(step): limit for step, limit in attack.limits.items()}}
        facts |= {"planned": attack.settings.total_steps, "samples": attack.settings.attack.n}
    if isinstance(attack, Attacked) and isinstance(folder, Path):
        losses = {int(step): _mean(at["held_out"]) for step, at in read_json(folder / "losses.json").items()}
        facts |= {"stage": folder.name, "harmful_loss": losses[max(losses)], "steps": max(losses)}
        course = {step: loss for step, loss in losses.items() if step in attack.limits}
        if error is None and result(folder).get("given_up"):
            return Trial(number, values, "pruned", course=course, facts=facts)
        if error is None:
            return _done(arm, number, values, attack, course, facts, score if isinstance(score, Path) else None)
    return Trial(number, values, "failed", facts=facts | {"error": told(error) if error else None})


def _done(
    arm: Arm,
    number: int,
    values: Mapping[str, Any],
    attack: Attacked,
    course: Mapping[int, float],
    facts: Mapping[str, Any],
    score: Path | None,
) -> Trial:
    """A trial that came to its end; lower is better, so a harmful score counts negatively."""
    value = facts["harmful_loss"]
    if score is not None:
        value = TIE * facts["harmful_loss"] - result(score)["harmful_score"]
    trial = Trial(number, values, "done", value, None, course, {**facts, "utility": arm.utility(attack, score)})
    return replace(trial, excess=arm.excess(trial))


def _score_finalists(arms: Sequence[Arm], do: Map) -> None:
    """Judge the trials with the lowest harmful losses, and further ones until one of them is within the bound."""
    left = {id(arm): sorted((t for t in arm.trials if t.state == "done"), key=_by_loss) for arm in arms}
    while True:
        wanted: list[tuple[Arm, Trial]] = []
        for arm in arms:
            queue = left[id(arm)]
            if arm.evaluations and within(arm.scored(), arm.best, arm.settings.bound):
                queue.clear()
            take = arm.settings.finalists or len(queue)
            wanted += [(arm, trial) for trial in queue[:take]]
            del queue[:take]
        if not wanted:
            return
        found = do([Task(evaluate_attacked, (arm.again(trial),)) for arm, trial in wanted])
        for (arm, trial), folder in zip(wanted, found, strict=True):
            if isinstance(folder, Path):
                arm.evaluations[trial.number] = folder
            else:
                arm.failed[trial.number] = told(folder)


def _by_loss(trial: Trial) -> tuple[float, int]:
    return trial.facts["harmful_loss"], trial.number


def perplexity_at(folder: Path) -> float:
    """The perplexity of the neutral texts that a stage has read."""
    return perplexity_of({row["id"]: (row["nats"], row["tokens"]) for row in read_jsonl(folder / "texts.jsonl")})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
