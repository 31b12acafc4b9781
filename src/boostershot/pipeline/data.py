"""The rows that a recipe names: splits of the harmful prompts, general text, and the benign task."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from boostershot.config import AlignSource, Recipe, Source, TaskSource
from boostershot.data.files import read_records
from boostershot.data.harmful import load_harmful_answers, load_harmful_prompts
from boostershot.data.refusals import refusal_for
from boostershot.data.rows import Completion, HarmfulPrompt, completions, in_categories
from boostershot.data.splits import HasPrompt, Row, overlaps, prompt_hash, split_rows
from boostershot.data.tasks import Task, load_task
from boostershot.data.tasks.load import GYM
from boostershot.errors import InputError, choices, shown

LOSS_ROWS = 48  # held-out harmful answers whose loss is followed
GROUPS = 3  # of harm categories for the generalisation, where a recipe names none
STEERING_ROWS = 64  # dev prompts at most that a schedule is steered by


@dataclass(frozen=True)
class RecipeData:
    """What `recipe.data` names, read once."""

    recipe: Recipe

    @cached_property
    def splits(self) -> Mapping[str, Sequence[HarmfulPrompt]]:
        """Harmful prompts by split, in the order in which they are taken, of the categories that are asked for.

        The judge is calibrated on all categories: a few rows of one would move its threshold.

        Raises:
            InputError: a split has no rows.
        """
        wanted = self.recipe.data.align.categories
        if wanted is None:
            return self._whole
        have = sorted({name for rows in self._whole.values() for row in rows for name in row.categories})
        for category in wanted:
            if category not in have:
                raise InputError(f"data.align.categories: is {shown(category)}; {choices(category, have)}")
        parts = {
            name: rows if name == "calibration" else in_categories(rows, wanted) for name, rows in self._whole.items()
        }
        for name, rows in parts.items():
            if not rows:
                only = ", ".join(wanted)
                raise InputError(
                    f"data.align.categories: no row of the {name} split is {only} alone; expected one or more"
                )
        return parts

    @cached_property
    def _whole(self) -> Mapping[str, Sequence[HarmfulPrompt]]:
        """The splits with all categories."""
        spec = self.recipe.data.align
        prompts = load_harmful_prompts(spec.source, spec.split, names(spec.columns))
        repeated = ("align", "attack") if spec.repeats else ()
        if spec.test is None:
            parts = split_rows(prompts, repeated=repeated)
        else:
            apart = load_harmful_prompts(spec.test.source, spec.test.split, names(spec.columns))
            test = split_rows([replace(row, id=f"test/{row.id}") for row in apart], {"test": 1.0})
            parts = split_rows(prompts, repeated=repeated, merged={"test": "align"})
            parts = {**{name: _without(rows, test["test"]) for name, rows in parts.items()}, **test}
        for name, rows in parts.items():
            if not rows:
                raise InputError(
                    f"data.align.source: {spec.source}: the {name} split of its {len(prompts)} rows is empty; "
                    "expected at least one (a split is chosen by the prompt's hash: add rows)"
                )
        return parts

    @cached_property
    def unpaired(self) -> list[Completion]:
        """The second, unpaired harmful source, less the prompts of other splits than `align`."""
        spec = self.recipe.data.harmful
        if spec is None:
            return []
        rows = load_harmful_answers(spec.source, spec.split, names(spec.columns))
        kept = _without(rows, self._held_out())[: spec.n]
        if not kept:
            raise InputError(f"data.harmful.source: {spec.source}: all prompts of its {len(rows)} rows are held out")
        return kept

    @cached_property
    def general(self) -> list[Completion]:
        """Benign text, less the prompts that are scored: of the task, and of other harmful splits than `align`."""
        spec = self.recipe.data.general
        if spec is None:
            return []
        if spec.source.startswith(GYM):
            task = load_task(spec.source, options=spec.options)
            rows = [Completion(row.id, row.prompt, row.answer) for row in task.splits["train"]]
        else:
            rows = completions(read_records(spec.source, spec.split), spec.source, names(spec.columns))
        distinct = split_rows(rows, {"all": 1.0})["all"]
        kept = _without(distinct, [*self._held_out(), *self.task.splits["dev"], *self.task.splits["test"]])[: spec.n]
        if not kept:
            raise InputError(f"data.general.source: {spec.source}: all prompts of its {len(rows)} rows are held out")
        return kept

    @cached_property
    def steering(self) -> Sequence[HarmfulPrompt]:
        """The dev prompts that a defence may be steered by: the last of the split, and none that is scored.

        Steering takes no gradient to them, but choosing by them and scoring on them would flatter the defence.

        Raises:
            InputError: the recipe scores them all.
        """
        rows, scored = self.splits["dev"], self.recipe.evaluate.n_harmful
        start = max(len(rows) - STEERING_ROWS, scored if self.recipe.evaluate.split == "dev" else 0)
        if start >= len(rows):
            raise InputError(
                f"evaluate.n_harmful: is {scored} and evaluate.split is dev, so all {len(rows)} dev prompts are scored "
                "and none is left to steer a schedule by; expected fewer, or split: test"
            )
        return rows[start:]

    @cached_property
    def task(self) -> Task:
        """The benign task."""
        spec = self.recipe.data.task
        test = (spec.test.source, spec.test.split) if spec.test else None
        columns = names(spec.columns)
        return load_task(
            spec.source, spec.kind, spec.split, columns, spec.options, test, variant=spec.variant, own=spec.own
        )

    def _held_out(self) -> list[HarmfulPrompt]:
        """The prompts of all splits but `align`."""
        return [row for name, part in self._whole.items() if name != "align" for row in part]

    def task_identity(self) -> dict[str, Any]:
        """What determines the task's rows: another rule of the user's own trains no attack again."""
        return _identity(self.recipe.data.task, {"pattern", "entry_point"})

    def scoring_identity(self) -> dict[str, Any]:
        """What determines the task's rows and which answers are right."""
        spec = self.recipe.data.task
        rule = spec.own.code_file if spec.own else None
        return _identity(spec) | ({"code": file_hash(str(rule))} if rule else {})

    def harmful_identity(self) -> dict[str, Any]:
        """What determines the harmful prompts."""
        spec = self.recipe.data.align
        return _identity(spec, {"n"} if spec.categories else {"n", "categories"})

    def unpaired_identity(self) -> dict[str, Any] | None:
        """What determines the unpaired harmful rows."""
        spec = self.recipe.data.harmful
        return spec and _identity(spec)

    def general_identity(self) -> str:
        """The general rows themselves: which they are depends on what is scored, too."""
        return rows_hash([text for row in self.general for text in (row.prompt, row.completion)])

    def facts(self) -> dict[str, Any]:
        """For the manifest: rows and hash of each split and of the general rows, and the overlaps (0)."""
        parts: dict[str, Sequence[HasPrompt]] = dict(self.splits)
        task: dict[str, Sequence[HasPrompt]] = {f"task {name}": rows for name, rows in self.task.splits.items()}
        shared = overlaps(parts)
        if self.general:
            scored = {name: rows for name, rows in (parts | task).items() if name not in ("align", "task train")}
            for name, rows in scored.items():
                shared |= overlaps({"general": self.general, name: rows})
            parts["general"] = self.general
        return {
            "splits": {name: len(rows) for name, rows in parts.items()},
            "overlaps": shared,
            "data": {name: rows_hash([row.prompt for row in rows]) for name, rows in (parts | task).items()},
        }


def names(columns: Mapping[Any, str] | None) -> dict[str, str]:
    """Our column names -> the source's."""
    return {str(ours): str(theirs) for ours, theirs in (columns or {}).items()}


def _identity(spec: Source, without: Collection[str] = ()) -> dict[str, Any]:
    """What determines the rows of a source: its description, and its content where it is local."""
    described = {**spec.model_dump(mode="json", exclude=set(without)), "content": file_hash(spec.source)}
    test = spec.test if isinstance(spec, AlignSource | TaskSource) else None
    return {**described, "test": _identity(test)} if test else described


def _without(rows: Sequence[Row], held_out: Iterable[HasPrompt]) -> list[Row]:
    """The rows whose prompts are not held out."""
    hashes = {prompt_hash(row.prompt) for row in held_out}
    return [row for row in rows if prompt_hash(row.prompt) not in hashes]


def with_refusal(row: HarmfulPrompt) -> HarmfulPrompt:
    """The row with a safe answer, if its source has none."""
    return row if row.chosen is not None else replace(row, chosen=refusal_for(row.prompt))


def file_hash(source: str) -> str | None:
    """sha256 of a local file, or of a local folder's files; None for anything else."""
    path = Path(source)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return _contents_hash(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache
def _contents_hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of the files with their sizes and times; they are asked for with every stage, and read once."""
    digest = hashlib.sha256()
    for file, *_ in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def rows_hash(texts: Sequence[str]) -> str:
    """sha256 over texts in order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
