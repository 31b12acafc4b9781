"""A whole run: defences x attacks x seeds as stages, then results.json and the report."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from boostershot.attacks.grpo import Reinforced
from boostershot.config import AttackSettings, Recipe, build_defense, load_recipe, parse_recipe
from boostershot.data.format import Format
from boostershot.errors import InputError, StageFailed
from boostershot.evaluation.vllm_generation import import_vllm
from boostershot.models import Layer
from boostershot.pipeline import rewards
from boostershot.pipeline.answer_stages import USUAL, Asked
from boostershot.pipeline.attack_stages import askings, attacked, edited, layers_of
from boostershot.pipeline.estimate import in_words, planned, seconds_here
from boostershot.pipeline.executor import Executor, opened
from boostershot.pipeline.files import write_json
from boostershot.pipeline.manifest import describe_data, finish_manifest, start_manifest
from boostershot.pipeline.orders import Task
from boostershot.pipeline.progress import Reporter, duration, quiet_libraries
from boostershot.pipeline.properties import measure_properties
from boostershot.pipeline.property_stages import PropertyStages
from boostershot.pipeline.results import Cell, Results, assemble
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store, told
from boostershot.pipeline.sweep import run_sweep
from boostershot.pipeline.sweep_check import check_sweep
from boostershot.report import recipe_hash, write_report, write_scorecard

Until = Literal["immunize", "attack", "evaluate", "report"]


def run(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    scale: float | None = None,
    until: Until = "report",
    properties: bool = False,
    sweep: bool = False,
    redact: bool = False,
    reporter: Reporter | None = None,
) -> Results:
    """Do what a recipe says, resume what is unfinished, skip what is done.

    Args:
        recipe: a shipped name, a YAML file, or a recipe.
        out: the run folder; `runs/<recipe name>` by default.
        overrides: `{"immunize.steps": 3}`.
        scale: the fraction of the recipe's samples and steps to take; the recipe's own `scale` by default.
        until: the last kind of stage to do; rows are written from `evaluate` on, the report from `report`.
        properties: measure the four immunisation properties, too, as the recipe's `properties` say: properties.json
            and scorecard.md.
        sweep: then let an attacker tune against every defence, as the recipe's `sweep` says: sweep.json.
        redact: leave the models' answers out of the report.
        reporter: tells the progress.

    Raises:
        InputError: the recipe, its data or the folder is wrong.
        StageFailed: a stage failed; all others were done, and results.json says which.
    """
    if isinstance(recipe, Recipe) and overrides:
        raise InputError("overrides: expected none beside a recipe that is loaded already")
    changes = {**(overrides or {}), **({} if scale is None else {"scale": scale})}
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, changes)
    elif changes:
        recipe = parse_recipe({**recipe.to_dict(), **changes})
    if sweep:
        _check_section(recipe)
    folder, identity = Path(out) if out is not None else Path("runs") / recipe.name, recipe_hash(recipe.to_dict())
    reporter = reporter or Reporter()
    quiet_libraries()
    # Set even to what it is: workers set it, and torch then no longer lets the number vary from call to call.
    torch.set_num_threads(recipe.runtime.threads or torch.get_num_threads())
    store = Store(folder, reporter.line)
    with store.claimed(recipe.name):
        stages = Stages(recipe.scaled(), store, reporter)
        reporter.line(f"{recipe.name}: reading the model and the data")
        _check(stages)
        measured = PropertyStages(stages) if properties and until in ("evaluate", "report") else None
        if measured:
            measured.check()
        if sweep:
            check_sweep(stages)
        with opened(stages) as executor:
            changed = start_manifest(folder, recipe, torch.get_num_threads())
            if changed:
                versions = "; ".join(changed)
                reporter.line(f"{folder}: was begun with other versions ({versions}); what is done there is kept")
            describe_data(folder, **stages.data.facts())
            _announce(stages, recipe.scale, properties, sweep)
            cells, baseline = _grid(executor, until)
            results = Results(folder, {"rows": [], "summary": []})
            failures: list[str] = []
            broken: list[str] = []
            if baseline is not None:
                results = _conclude(stages, identity, cells, *baseline)
            if sweep:
                content = run_sweep(stages, executor.map, identity, results.rows)
                write_json(folder / "sweep.json", content)
                broken = [f"{one['defense']}: {one['error']}" for one in content["failed"]]
        if measured:
            content = measure_properties(measured, cells, identity)
            write_json(folder / "properties.json", content)
            reporter.line(f"scorecard: {write_scorecard(folder)}")
            failures = [f"{one['property']}, {one['what']}: {one['error']}" for one in content["failed"]]
        finish_manifest(folder)
        if until == "report":
            reporter.line(f"report: {write_report(folder, redact)}")
    failed = [cell for cell in cells if cell.error]
    if failed:
        names = "; ".join(f"{c.defense}, {c.label}, seed {c.seed}: {c.error}" for c in failed)
        raise StageFailed(f"{len(failed)} of {len(cells)} cells failed ({names})")
    unscored = [row for row in results.content.get("baseline", ()) if row["status"] == "failed"]
    if unscored:
        names = "; ".join(f"{row['judge']}: {row['error']}" for row in unscored)
        raise StageFailed(f"the base model could not be scored by {len(unscored)} of the judges ({names})")
    if failures:
        raise StageFailed(f"{len(failures)} parts of the properties failed ({'; '.join(failures)})")
    if broken:
        raise StageFailed(f"{len(broken)} parts of the sweep failed ({'; '.join(broken)})")
    return results


def plan(recipe: Recipe, properties: bool = False, sweep: bool = False) -> list[str]:
    """What `run` would do, a line a stage, and the sum."""
    if sweep:
        _check_section(recipe)
    stages = list(planned(recipe.scaled(), properties, sweep))
    steps, passes = sum(stage.steps for stage in stages), round(sum(stage.passes for stage in stages), 1)
    tokens = sum(stage.tokens for stage in stages)
    return [
        *([f"at scale {recipe.scale:g} of the recipe's samples and steps"] if recipe.scale < 1 else []),
        *(f"{stage.what}; {in_words(stage.tokens)} tokens" for stage in stages),
        f"{len(stages)} stages, {steps:,} optimiser steps, {passes:,.10g} forward-backward passes over a batch, "
        f"about {in_words(tokens)} tokens read by the model (a step's rows count once a pass; row lengths are guessed)",
    ]


def _check_section(recipe: Recipe) -> None:
    """Does the recipe say what a sweep does?

    Raises:
        InputError: no.
    """
    if recipe.sweep is None:
        raise InputError(
            f"{recipe.name}: sweep: is missing; expected {{attacker: {{trials: ..., steps: ..., samples: ...}}}}"
        )


def _check(stages: Stages) -> None:
    """Read all that the user gave, so that what is wrong is told before anything is done.

    Raises:
        InputError: the model or the data is wrong, an attack wants more rows than there are, or vLLM is missing.
    """
    if stages.recipe.runtime.generator == "vllm":
        import_vllm()
    data, (model, *_) = stages.data, stages.base
    for split in ("train", stages.recipe.evaluate.split):
        if not data.task.splits[split]:
            source = stages.recipe.data.task.source
            raise InputError(
                f"data.task.source: {source}: its {split} split is empty; expected at least one row (add rows)"
            )
    for label, described in stages.recipe.defenses.items():
        defense = build_defense(described, f"defenses.{label}")
        if "dev" in defense.needs():
            _ = data.steering
        try:
            defense.check_model(model)
        except ValueError as error:
            raise InputError(f"defenses.{label}: {error}") from None
    for judge in stages.panel.values():
        judge.check()
    if stages.preference is not None:
        if data.task.correct is not None:
            raise InputError(
                f"evaluate.preference: is given, and a rule scores {data.task.name}; "
                "expected null, or a task of free text"
            )
        stages.preference.check()
    wanted, have = stages.recipe.data.align.n or 0, len(data.splits["align"])
    if wanted > have:
        stages.reporter.line(f"data.align.n: is {wanted}, and the align split has {have} rows; all of them are used")
    _, tokenizer, _ = stages.base
    for label, attack in stages.recipe.attacks.items():
        if attack.template is not None:
            try:
                Format.choose(tokenizer, attack.template)
            except InputError as error:
                raise InputError(f"attacks.{label}.template: {error}") from None
        if isinstance(attack.attack, Reinforced):
            rewards.check(stages, label, attack.attack)
        for kind, wanted, have in (
            ("harmful", attack.attack.n_harmful, len(data.splits["attack"])),
            ("benign", attack.attack.n_benign, len(data.task.splits["train"])),
        ):
            if wanted > have:
                raise InputError(f"attacks.{label}: needs {wanted} {kind} rows; the data has {have}")
        if attack.anchor is not None and attack.anchor.n > len(data.general):
            have = len(data.general)
            raise InputError(f"attacks.{label}.anchor.n: is {attack.anchor.n}; data.general has {have} rows")


def _announce(stages: Stages, scale: float, properties: bool, sweep: bool) -> None:
    """The first line: what will happen, and for how long."""
    recipe = stages.recipe
    scaled = f" at scale {scale:g}" if scale < 1 else ""
    model, _, form = stages.base
    parameters = sum(param.numel() for param in model.parameters())
    names = " and ".join(recipe.defenses)
    stages.reporter.line(
        f"{recipe.name}{scaled}: immunize {recipe.model.id} ({form.name} template) with {names}, attack each in "
        f"{len(recipe.attacks)} way(s), {len(recipe.seeds)} seed(s); about "
        f"{duration(seconds_here(recipe, parameters, properties, sweep))} here, less what is done already"
    )


def _grid(executor: Executor, until: Until) -> tuple[list[Cell], tuple[Mapping[str, Path], Mapping[str, str]] | None]:
    """All cells, and the evaluations of the base model by judge with why there is none."""
    recipe, scored = executor.stages.recipe, until in ("evaluate", "report")
    tasks = [Task(_cells, (defense, seed, until)) for seed in recipe.seeds for defense in recipe.defenses]
    found = executor.map([*tasks, *([Task(_judged, (None, [], "the base model"))] if scored else [])])
    for one in found:
        if isinstance(one, Exception):  # none of a stage: those are in the cells
            raise one
    baseline = found.pop() if scored else None
    return [cell for cells in found for cell in cells], baseline


def _cells(stages: Stages, defense: str, seed: int, until: Until) -> list[Cell]:
    """One defence under every attack with one seed; a failure leaves its own cells behind and no others."""
    cells: list[Cell] = []
    immunized, error = None, None
    try:
        immunized = stages.immunized(defense, seed)
    except Exception as caught:
        error = told(caught)
    for attack, settings in stages.recipe.attacks.items():
        if immunized is None or until == "immunize":
            names = settings.attack.askings
            first = next(iter(names))
            cells += [Cell(defense, attack, n, seed, immunized, error=error, apart=n != first) for n in names]
        else:
            with stages.store.apart():
                cells += _attacked_cells(stages, defense, attack, seed, immunized, until)
    return cells


def _attacked_cells(
    stages: Stages, defense: str, attack: str, seed: int, immunized: Path, until: Until
) -> Iterator[Cell]:
    """One attack on one immunised model, scored at its recorded steps: a cell for each way of asking."""
    settings = stages.recipe.attacks[attack].against(stages.recipe.defenses[defense])
    folder, error, what = None, None, f"{defense}, {attack}"
    ways = {name: Asked(settings.template) for name in settings.attack.askings}
    try:
        make = attacked if settings.attack.trains else edited if settings.attack.edits else None
        folder = make(stages, what, settings, immunized, seed) if make else None
        ways = askings(stages, settings, seed)
    except Exception as caught:
        error = told(caught)
    for number, (name, asked) in enumerate(ways.items()):
        cell = Cell(defense, attack, name, seed, immunized, folder, error=error, apart=number > 0)
        if error is None and until in ("evaluate", "report"):
            cell = _scored(stages, cell, settings, asked)
        yield cell


def _scored(stages: Stages, cell: Cell, settings: AttackSettings, asked: Asked) -> Cell:
    """The cell with its evaluations."""
    evaluated: dict[tuple[int, str], Path] = {}
    failed: dict[str, str] = {}  # a judge that fails leaves the others alone
    for step in settings.eval_steps:
        if step > 0 and not settings.judged:
            continue
        own = step > 0 or settings.attack.edits  # the attack's weights, and not those that it found
        after = f", {cell.label} after {step} steps" if own else "" if asked == USUAL else f", {cell.label}"
        what = f"{cell.defense}{after}, seed {cell.seed}"
        layers = layers_of(cell.immunized, cell.attacked, step, settings.adapter)
        of = cell.attacked if own else cell.immunized
        judged, not_judged = _judged(stages, of, layers, what, failed, asked)
        evaluated |= {(step, judge): stage for judge, stage in judged.items()}
        failed |= not_judged
    errors = "; ".join(dict.fromkeys(failed.values())) or None
    return replace(cell, evaluated=evaluated, judge_errors=failed, error=errors)


def _judged(
    stages: Stages,
    of: Path | None,
    layers: list[Layer],
    what: str,
    without: Collection[str] = (),
    asked: Asked = USUAL,
) -> tuple[dict[str, Path], dict[str, str]]:
    """The evaluations of one model by judge, and why there is none; judges in `without` are not asked."""
    found, failed = {}, {}
    for judge in stages.panel:
        if judge not in without:
            with stages.store.apart():
                try:
                    found[judge] = stages.evaluated(of, layers, what, judge, asked)
                except Exception as error:
                    failed[judge] = told(error)
    return found, failed


def _conclude(
    stages: Stages, identity: str, cells: list[Cell], baseline: Mapping[str, Path], failed: Mapping[str, str]
) -> Results:
    """Write results.json; `baseline` and `failed` are of the base model."""
    for error in dict.fromkeys(failed.values()):
        stages.reporter.line(f"the base model could not be scored: {error}")
    judges = [stages.described(judge) for judge in stages.panel]
    results = assemble(
        stages.recipe, identity, stages.store.root, cells, baseline, failed, judges, stages.described_preference()
    )
    write_json(stages.store.root / "results.json", results.content)
    return results
