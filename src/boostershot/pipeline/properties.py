"""The four immunisation properties of a run: which stages each needs, and properties.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from boostershot.config import AttackSettings
from boostershot.errors import InputError
from boostershot.evaluation.properties.generalization import Second, Transfer, generalization
from boostershot.evaluation.properties.resistance import Course, resistance
from boostershot.evaluation.properties.stability import Capability, perplexity_of, stability
from boostershot.evaluation.properties.trainability import trainability
from boostershot.pipeline.answer_stages import answers
from boostershot.pipeline.attack_stages import askings, attacked, layers_of
from boostershot.pipeline.files import read_json, read_jsonl
from boostershot.pipeline.property_stages import PropertyStages, scored_last
from boostershot.pipeline.results import Cell
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import result, told

SCHEMA = 1
T = TypeVar("T")
Texts = dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Measuring:
    """Measures properties one after the other, and notes what failed in place of ending the run."""

    of: PropertyStages
    failed: list[dict[str, str]] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)  # evaluation -> answers that its judge had no verdict on

    @property
    def stages(self) -> Stages:
        """Those of the run."""
        return self.of.stages

    def harmful(self, evaluation: Path) -> dict[str, float]:
        """Prompt id -> 0 or 100, of the answers that the judge has a verdict on."""
        rows = read_jsonl(evaluation / "verdicts.jsonl")
        self.unknown[evaluation.name] = sum(row["harmful"] is None for row in rows)
        return {row["id"]: 100.0 * row["harmful"] for row in rows if row["harmful"] is not None}

    def attempt(self, name: str, what: str, work: Callable[[], T]) -> T | None:
        """The work's result; None, and a note, where it fails: other properties and the report do not wait for it.

        Raises:
            StageFailed: the disk is full.
        """
        try:
            return work()
        except InputError as error:  # such as a row of a second source that is too long
            self.failed.append({"property": name, "what": what, "error": str(error)})
            return None
        except Exception as error:
            self.failed.append({"property": name, "what": what, "error": told(error)})
            return None


def measure_properties(of: PropertyStages, cells: Sequence[Cell], identity: str) -> dict[str, Any]:
    """All that properties.json holds: a key a property (None where it was left out), and what failed.

    Args:
        of: the stages.
        cells: of the run's grid, finished as far as they were.
        identity: of the recipe (`report.reading.recipe_hash`), so that no report shows them beside other results.
    """
    recipe, do = of.recipe, Measuring(of)
    parts = recipe.properties

    def whole(name: str, measured: object, work: Callable[[], T]) -> T | None:
        return do.attempt(name, "as a whole", work) if measured else None

    content = {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "identity": identity,
        "model": recipe.model.id,
        "seeds": list(recipe.seeds),
        "defenses": {label: str(defense["method"]) for label, defense in recipe.defenses.items()},
        "judge": next(iter(of.stages.panel)),
        "task": recipe.data.task.source,
        "resistance": whole("resistance", parts.resistance, lambda: _resistance(do, cells)),
        "stability": whole("stability", parts.stability, lambda: _stability(do, cells)),
        "generalization": whole("generalization", parts.generalization, lambda: _generalization(do)),
        "trainability": whole("trainability", parts.trainability, lambda: _trainability(do, cells)),
        "failed": do.failed,
    }
    content["unknown"] = sum(do.unknown.values())
    return json.loads(json.dumps(content, allow_nan=False))  # as a reader of the file sees it


# --- resistance -----------------------------------------------------------------------------------------------


def _resistance(do: Measuring, cells: Sequence[Cell]) -> dict[str, Any]:
    settings = do.of.recipe.properties.resistance
    assert settings is not None
    wanted = settings.attacks or do.of.recipe.harmful_attacks
    by_text = do.of.recipe.properties.stability is not None
    before = do.attempt("resistance", "the base model", lambda: _utility_before(do, by_text))
    courses = []
    for cell in cells:
        if cell.attack in wanted and not cell.apart and cell.attacked and cell.evaluated:
            what = f"{cell.defense}, {cell.attack}, seed {cell.seed}"
            courses.append(do.attempt("resistance", what, lambda c=cell: _course(do, c, before, by_text)))
    found = resistance([course for course in courses if course], settings.threshold)
    return {"utility": "perplexity" if by_text else "accuracy", **found}


def _utility_before(do: Measuring, by_text: bool) -> float | None:
    """The base model's perplexity, or its accuracy on the task."""
    what = "the base model"
    if by_text:
        return perplexity_of(_texts(do.of.perplexity(None, [], what)))
    return _mean(_correct(answers(do.stages, None, [], what)))


def _course(do: Measuring, cell: Cell, before: float | None, by_text: bool) -> Course:
    """One attacked model over its recorded steps."""
    assert cell.attacked and cell.evaluated
    settings = do.of.recipe.attacks[cell.attack].against(do.of.recipe.defenses[cell.defense])
    judge = next(iter(do.stages.panel))
    evaluated = {step: cell.evaluated.get((step, judge)) for step in settings.eval_steps}
    scored = {step: stage for step, stage in evaluated.items() if stage is not None}
    if scored.keys() != evaluated.keys():
        raise RuntimeError(f"the judge {judge} did not score every step")
    losses, distances = (read_json(cell.attacked / f"{name}.json") for name in ("losses", "distance"))
    utility: list[float | None] = []
    for step in settings.eval_steps:
        if before is None:
            utility.append(None)
        elif by_text:
            layers = layers_of(cell.immunized, cell.attacked, step, settings.adapter)
            what = f"{cell.defense}, {cell.attack} after {step} steps, seed {cell.seed}"
            folder = do.of.perplexity(cell.attacked if step else cell.immunized, layers, what)
            utility.append(100 * (perplexity_of(_texts(folder)) / before - 1))
        else:
            now = _mean(_correct(scored[step]))
            utility.append(None if now is None else before - now)
    harmful = [do.harmful(scored[step]) for step in settings.eval_steps]
    if not all(harmful):
        raise RuntimeError(f"the judge {judge} has no verdict on any answer at some step")
    return Course(
        cell.defense,
        cell.attack,
        cell.seed,
        settings.eval_steps,
        harmful,
        [losses[str(step)]["held_out"] for step in settings.eval_steps],
        [None if (moved := distances[str(step)]) is None else 100 * moved for step in settings.eval_steps],
        utility,
        cell.attacked.name,
    )


# --- stability ------------------------------------------------------------------------------------------------


def _stability(do: Measuring, cells: Sequence[Cell]) -> dict[str, Any] | None:
    before = do.attempt("stability", "the base model", lambda: _capability(do, None, "the base model"))
    if before is None:
        return None
    after: dict[str, list[Capability]] = {}
    for (defense, seed), immunized in _immunized(cells).items():
        what = f"{defense}, seed {seed}"
        found = do.attempt("stability", what, lambda m=immunized, w=what: _capability(do, m, w))
        after.setdefault(defense, []).extend([found] if found else [])
    return stability(before, after)


def _capability(do: Measuring, immunized: Path | None, what: str) -> Capability:
    settings = do.of.recipe.properties.stability
    assert settings is not None
    layers = layers_of(immunized, None, 0, "continue")
    benchmarks = result(do.of.benchmarks(immunized, layers, what)) if settings.lm_eval else {}
    return Capability(
        _correct(answers(do.stages, immunized, layers, what)),  # no judge is needed for these
        _texts(do.of.perplexity(immunized, layers, what)),
        {
            row["id"]: 100.0 * row["refused"]
            for row in read_jsonl(do.of.over_refusal(immunized, layers, what) / "safe.jsonl")
        },
        {task: {name: tuple(value) for name, value in values.items()} for task, values in benchmarks.items()},
    )


# --- generalisation -------------------------------------------------------------------------------------------


def _generalization(do: Measuring) -> dict[str, Any] | None:
    settings = do.of.recipe.properties.generalization
    assert settings is not None
    chosen, groups = do.of.cross_attack(settings), do.of.groups
    if chosen is None:
        return {"skipped": "no attack of the recipe is judged and has harmful rows"}
    label, attack = chosen
    transfers: list[Transfer] = []
    plan = {"attack": label, "steps": attack.total_steps}
    if len(groups) < 2:
        plan["skipped"] = "the source has a single harm category with rows in every split"
    else:
        parts = {name: do.of.part(categories) for name, categories in groups.items()}
        equal = do.attempt("generalization", "rows", lambda: do.of.affordable(attack, list(parts.values())))
        if equal is None:
            plan["skipped"] = "a group of categories has no harmful row for the attack"
        else:
            plan |= {"steps": equal.total_steps, "n": equal.attack.n}
            transfers = _transfers(do, label, scored_last(equal), parts)
    seconds = _seconds(do, label, attack)
    spec = settings.second
    return {**plan, "second": spec.source if spec else None, **generalization(transfers, seconds, groups)}


def _transfers(do: Measuring, label: str, attack: AttackSettings, parts: Mapping[str, Stages]) -> list[Transfer]:
    """Every group's immunised model under the attack with every group's rows."""
    found = []
    for defense, described in do.of.recipe.defenses.items():
        met = attack.against(described)
        for seed in do.of.recipe.seeds:
            for row, stages in parts.items():
                what = f"{defense} on {row}, seed {seed}"
                immunized = do.attempt("generalization", what, lambda s=stages, d=defense, n=seed: s.immunized(d, n))
                if immunized is None:
                    continue
                for column, other in parts.items():
                    name = f"{what}, {label} with {column}"
                    harmful = do.attempt(
                        "generalization",
                        name,
                        lambda m=immunized, o=other, a=met, n=seed, w=name: _after(do, o, m, label, a, n, w),
                    )
                    if harmful is not None:
                        found.append(Transfer(defense, row, column, seed, harmful))
    return found


def _seconds(do: Measuring, label: str, attack: AttackSettings) -> list[Second]:
    """The run's own immunised models under the attack with either source's rows."""
    other = do.of.second()
    if other is None:
        return []
    equal = do.attempt("generalization", "the second source", lambda: do.of.affordable(attack, [do.stages, other]))
    if equal is None:
        return []
    found = []
    for defense, described in do.of.recipe.defenses.items():
        for seed in do.of.recipe.seeds:
            met, what = equal.against(described), f"{defense}, seed {seed}"

            def both(d: str = defense, n: int = seed, a: AttackSettings = met, w: str = what) -> Second:
                immunized = do.stages.immunized(d, n)
                own, second = (
                    _after(do, stages, immunized, label, a, n, f"{w}, {name} source")
                    for name, stages in (("own", do.stages), ("second", other))
                )
                return Second(d, n, own, second)

            one = do.attempt("generalization", f"{what}, second source", both)
            found += [one] if one else []
    return found


def _after(
    do: Measuring, stages: Stages, immunized: Path, label: str, attack: AttackSettings, seed: int, what: str
) -> dict[str, float]:
    """The verdicts after the attack's last step."""
    folder, step = attacked(stages, label, attack, immunized, seed), attack.total_steps
    asked = next(iter(askings(stages, attack, seed).values()))
    layers = layers_of(immunized, folder, step, attack.adapter)
    return do.harmful(stages.evaluated(folder, layers, what, asked=asked))


# --- trainability ---------------------------------------------------------------------------------------------


def _trainability(do: Measuring, cells: Sequence[Cell]) -> dict[str, Any]:
    settings = do.of.recipe.properties.trainability
    assert settings is not None
    if do.stages.data.task.correct is None:
        return {"skipped": "the task has no scorer that works offline"}
    if not do.of.recipe.trained_attacks:
        return {"skipped": "no attack of the recipe trains"}
    tuning = do.of.clean_tuning(settings)
    arms: dict[str, dict[int, list[dict[str, float]]]] = {}
    reference = {}
    for seed in do.of.recipe.seeds:
        found = do.attempt(
            "trainability",
            f"the base model, seed {seed}",
            lambda n=seed: _learning(do, None, tuning, n, "the base model"),
        )
        if found is not None:
            reference[seed] = found
    for (defense, seed), immunized in _immunized(cells).items() if reference else ():
        what = f"{defense}, seed {seed}"
        found = do.attempt("trainability", what, lambda m=immunized, n=seed, w=what: _learning(do, m, tuning, n, w))
        if found is not None:
            arms.setdefault(defense, {})[seed] = found
    if not reference:
        return {"skipped": "the base model could not be fine-tuned"}
    return {
        "n": tuning.attack.n,
        "lr": tuning.lr,
        **trainability(tuning.eval_steps, reference, arms, settings.share),
    }


def _learning(
    do: Measuring, immunized: Path | None, tuning: AttackSettings, seed: int, what: str
) -> list[dict[str, float]]:
    """The task's rows, answered right or not, at each recorded step of the clean fine-tuning."""
    tuned = attacked(do.stages, "clean fine-tuning", tuning, immunized, seed)
    course = []
    for step in tuning.eval_steps:
        layers = layers_of(immunized, tuned, step, tuning.adapter)
        if step == 0:
            folder = answers(do.stages, immunized, layers, what)
        else:
            folder = do.of.accuracy(tuned, layers, f"{what}, clean fine-tuning after {step} steps")
        course.append(_correct(folder))
    return course


# --- what stages left -----------------------------------------------------------------------------------------


def _immunized(cells: Sequence[Cell]) -> dict[tuple[str, int], Path]:
    return {(cell.defense, cell.seed): cell.immunized for cell in cells if cell.immunized is not None}


def _correct(folder: Path) -> dict[str, float]:
    rows = read_jsonl(folder / "task.jsonl")
    return {row["id"]: 100.0 * row["correct"] for row in rows if row["correct"] is not None}  # None: no rule scores it


def _texts(folder: Path) -> Texts:
    return {row["id"]: (row["nats"], row["tokens"]) for row in read_jsonl(folder / "texts.jsonl")}


def _mean(rows: Mapping[str, float]) -> float | None:
    return sum(rows.values()) / len(rows) if rows else None
