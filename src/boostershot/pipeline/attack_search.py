"""An attacker's search against every defence: its trials as stages, the finalists' scores, the worst one run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from boostershot.attacks import BenignOnly
from boostershot.attacks.search import Search, Trial, limits
from boostershot.config import AttackSettings, Recipe
from boostershot.config.space import Space
from boostershot.config.sweep import Attacker, tuned_attack, untuned_values
from boostershot.errors import InputError
from boostershot.evaluation.properties.stability import perplexity_of
from boostershot.evaluation.worst_case import Tried, utility_loss, within, worst_case
from boostershot.models import Layer
from boostershot.pipeline.answer_stages import Asked
from boostershot.pipeline.attack_stages import attacked, layers_of
from boostershot.pipeline.files import read_json, read_jsonl
from boostershot.pipeline.orders import Task
from boostershot.pipeline.property_stages import PropertyStages, second_data, varied
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import result, told

STORAGE = "sweep.sqlite"
TIE = 1e-4  # of a nat of harmful loss against a point of harmful score: it only ever breaks ties


Map = Callable[[Sequence[Task]], Sequence["Path | Exception"]]  # results in order, failures as values


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
    untampered: float | None = None
    honest: float | None = None
    reference: float | None = None
    evaluations: dict[int, Path] = field(default_factory=dict)  # trial -> its scores
    failed: dict[int, str] = field(default_factory=dict)  # trial -> why it could not be scored

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
        recipe, settings = self.stages.recipe, self.settings
        space = settings.budgeted
        deciding = {
            "immunized": self.immunized.name,
            "base": self.base.model_dump(mode="json"),
            "budget": [settings.steps, settings.samples, settings.generation],
            "space": space.to_dict(),
            "goal": ["harmful loss" if settings.finalists else "harmful score", settings.utility, settings.bound],
            "give_up": settings.checkpoints,
            "data": recipe.data.model_dump(mode="json"),
            "evaluate": recipe.evaluate.model_dump(mode="json"),
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
        settings = tuned_attack(self.base, self.search.space.derived(values), self.settings)
        early = {step: limit for step, limit in limits.items() if step < settings.total_steps}
        return Attacked(f"{self.label}, trial {number}", settings, self.immunized, self.seed, early, self.searching)

    def again(self, trial: Trial) -> Attacked:
        """The attack of a finished trial, just as it was run."""
        return self.tried(trial.number, trial.values, {int(step): one for step, one in trial.facts["limits"].items()})

    def benign(self) -> Attacked:
        """The attack's own training by an honest user, with all the steps and rows of the budget."""
        own = {key: self.base.model_dump()[key] for key in type(self.base).model_fields}
        steps = self.settings.steps
        rows = BenignOnly(min(self.settings.samples, _benign_rows(self.stages)))
        changed = {"method": rows.name, "n": rows.n, "steps": steps, "epochs": None, "eval_steps": (steps,)}
        settings = AttackSettings.model_validate(own | changed | {"judged": True, "anchor": None, "refactor": None})
        return Attacked(f"{self.label}, benign rows only", settings, self.immunized, self.seed, changes=self.searching)

    def utility(self, attack: Attacked, evaluation: Path | None) -> float | None:
        """Of an attacked model: the accuracy, or one over the perplexity; higher is better."""
        if self.settings.utility == "accuracy":
            return result(evaluation)["finetune_accuracy"] if evaluation else None
        return 1 / _perplexity(attack.perplexity(self.run))

    @property
    def best(self) -> float | None:
        """The best utility: of the model before the attack for a perplexity, of all fine-tunings for an accuracy."""
        if self.settings.utility == "perplexity":
            return self.untampered
        known = [self.honest, *(trial.facts.get("utility") for trial in self.trials)]
        known += [result(folder)["finetune_accuracy"] for folder in self.evaluations.values()]
        return max((one for one in known if one is not None), default=None)

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


Proposed = tuple[Arm, int, Mapping[str, Any], Attacked]  # with the trial's number and values


def search_attacks(arms: Sequence[Arm], do: Map) -> None:
    """Search against all defences, generation by generation, so that the trials of all may run at once."""
    _measure_honest(arms, do)
    while True:
        proposed: list[Proposed] = []
        for arm in arms:
            settings, finished = arm.settings, arm.trials
            bars = limits(finished, settings.checkpoints, settings.generation)
            for number, values in enumerate(arm.search.propose(settings.trials), len(finished)):
                proposed.append((arm, number, values, arm.tried(number, values, bars)))
        if not proposed:
            break
        folders = do([Task(_attack, (attack,)) for *_, attack in proposed])
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


def _measure_honest(arms: Sequence[Arm], do: Map) -> None:
    """The utility that a bound is relative to."""
    accuracy = [arm for arm in arms if arm.settings.utility == "accuracy"]
    for arm, found in zip(accuracy, do([Task(_evaluate, (arm.benign(),)) for arm in accuracy]), strict=True):
        if isinstance(found, Path):
            arm.honest = result(found)["finetune_accuracy"]
    for arm in arms:
        if arm.settings.utility == "perplexity":
            layers = layers_of(arm.immunized, None, 0, "continue")
            folder = PropertyStages(arm.stages).perplexity(arm.immunized, layers, f"{arm.label}, before the attack")
            arm.untampered = 1 / _perplexity(folder)


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
    for position, score in _done_at(over, proposed, do, lambda arm: arm.settings.finalists is None, _evaluate):
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


def _evaluate(run: Stages, attack: Attacked) -> Path:
    return attack.evaluate(run)


def _perplexity_after(run: Stages, attack: Attacked) -> Path:
    return attack.perplexity(run)


def _trial(
    arm: Arm,
    number: int,
    values: Mapping[str, Any],
    attack: Attacked,
    folder: Path | Exception,
    score: Path | Exception | None,
) -> Trial:
    """What came of a trial, as the search keeps it."""
    facts: dict[str, Any] = {"limits": {str(step): limit for step, limit in attack.limits.items()}}
    error = next((one for one in (folder, score) if isinstance(one, Exception)), None)
    if isinstance(folder, Path):
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
    value, utility, excess = facts["harmful_loss"], arm.utility(attack, score), None
    if score is not None:
        value = TIE * facts["harmful_loss"] - result(score)["harmful_score"]
    if utility is not None:
        lost = utility_loss(utility, max((one for one in (arm.best, utility) if one is not None), default=None))
        excess = 1.0 if lost is None else lost - arm.settings.bound
    return Trial(number, values, "done", value, excess, course, {**facts, "utility": utility})


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
        found = do([Task(_evaluate, (arm.again(trial),)) for arm, trial in wanted])
        for (arm, trial), folder in zip(wanted, found, strict=True):
            if isinstance(folder, Path):
                arm.evaluations[trial.number] = folder
            else:
                arm.failed[trial.number] = told(folder)


def _by_loss(trial: Trial) -> tuple[float, int]:
    return trial.facts["harmful_loss"], trial.number


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
            for seed in arm.settings.seeds:
                label = f"{arm.label}, trial {trial.number} again, seed {seed}"
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
        found[position] = 1 / _perplexity(folder) if isinstance(folder, Path) else folder
    return found


def _measure_references(arms: Sequence[Arm], do: Map) -> None:
    """The utility that the re-runs' is held against. Which fine-tuning it is of was chosen on dev."""
    chosen = []
    for arm in arms:
        if arm.settings.utility == "perplexity":
            arm.reference = arm.untampered
        elif (best := arm.most_useful()) is not None:
            chosen.append((arm, best))
    found = do([Task(_evaluate_on, (best, arm.changes)) for arm, best in chosen])
    for (arm, _), folder in zip(chosen, found, strict=True):
        if isinstance(folder, Path):
            arm.reference = result(folder)["finetune_accuracy"]


def _evaluate_on(run: Stages, attack: Attacked, scored: Mapping[str, Any]) -> Path:
    named = replace(attack, label=f"{attack.label}, on {run.recipe.evaluate.split}")
    return named.evaluate(run, scored)


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

    `attack` is "default" (what the trials start from) or "worst" (the worst case within the bound).
    """

    attack: str
    evaluation: Path | None
    error: str | None = None


def attack_elsewhere(arms: Sequence[Arm], do: Map) -> dict[str, list[Elsewhere]]:
    """Both attacks on each defence, on a second source where the recipe names one; no worst where there is none."""
    wanted: list[tuple[Arm, str, Task]] = []
    for arm in arms:
        spec = arm.settings.second
        if spec is None:
            continue
        worst = arm.worst(arm.settings.bound)
        default = arm.base.model_copy(update={"eval_steps": (arm.base.total_steps,)})
        trials = [
            ("worst", arm.again(trial).settings) for trial in arm.trials if worst and trial.number == worst.number
        ]
        for attack, settings in [("default", default), *trials]:
            changes = {**arm.changes, "data": second_data(arm.stages.recipe.data, spec)}
            label = f"{arm.label}, {attack} attack on the second source"
            task = Task(_evaluate, (Attacked(label, settings, arm.immunized, arm.seed, changes=changes),))
            wanted.append((arm, attack, task))
    found: dict[str, list[Elsewhere]] = {arm.label: [] for arm in arms}
    for (arm, attack, _), folder in zip(wanted, do([task for *_, task in wanted]), strict=True):
        found[arm.label].append(Elsewhere(attack, *_outcome(folder)))
    return found


def check_rows(stages: Stages) -> None:
    """Are there as many rows as the attacker's trials may want?

    Raises:
        InputError: no.
    """
    recipe = stages.recipe
    assert recipe.sweep is not None
    attacker = recipe.sweep.attacker
    base = recipe.attacks[recipe.sweep.base(recipe.attacks)]
    have = {"harmful": len(stages.data.splits["attack"]), "benign": _benign_rows(stages)}
    of = "the data"
    if attacker.second is not None:
        second = varied(stages, {"data": second_data(recipe.data, attacker.second)})
        if len(second.data.splits["attack"]) < have["harmful"]:
            have["harmful"], of = len(second.data.splits["attack"]), "sweep.attacker.second"
    most = {key: attacker.budgeted[key].extremes()[-1] for key in ("n",) if key in attacker.budgeted}
    for values in attacker.budgeted.samples():
        attack = tuned_attack(base, values | most, attacker).attack
        for kind, wanted in (("harmful", attack.n_harmful), ("benign", attack.n_benign)):
            if wanted > have[kind]:
                raise InputError(
                    f"sweep.attacker: {attack.n} rows of {attack.name} at p {attack.p:g} need {wanted} {kind} rows; "
                    f"{of if kind == 'harmful' else 'the data'} has {have[kind]}"
                )
    if not stages.data.task.splits["dev"]:
        source = recipe.data.task.source
        raise InputError(f"data.task.source: {source}: its dev split is empty; expected rows to choose by")
    if attacker.utility == "accuracy" and stages.data.task.correct is None:
        raise InputError("sweep.attacker.utility: is accuracy, and no rule scores the task; expected perplexity")
    if attacker.utility == "perplexity" and recipe.properties.stability is None:
        raise InputError("sweep.attacker.utility: is perplexity; expected the texts of properties.stability beside it")


def _benign_rows(stages: Stages) -> int:
    _, _, form = stages.base
    return len(form.fitting(stages.data.task.splits["train"], stages.recipe.data.max_length))


def _perplexity(folder: Path) -> float:
    return perplexity_of({row["id"]: (row["nats"], row["tokens"]) for row in read_jsonl(folder / "texts.jsonl")})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
