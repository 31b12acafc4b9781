"""The rows that a recipe names: splits of the harmful prompts, and the benign task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from boostershot.config import Recipe
from boostershot.data.files import read_records
from boostershot.data.harmful import load_harmful_prompts
from boostershot.data.refusals import refusal_for
from boostershot.data.rows import Completion, HarmfulPrompt, completions
from boostershot.data.splits import overlaps, prompt_hash, split_rows
from boostershot.data.tasks import Task, load_task
from boostershot.errors import InputError

LOSS_ROWS = 48  # held-out harmful answers whose loss is followed


@dataclass(frozen=True)
class RecipeData:
    """What `recipe.data` names, read once."""

    recipe: Recipe

    @cached_property
    def splits(self) -> Mapping[str, Sequence[HarmfulPrompt]]:
        """Harmful prompts by split, in the order in which they are taken.

        Raises:
            InputError: a split has no rows.
        """
        spec = self.recipe.data.align
        prompts = load_harmful_prompts(spec.source, spec.split, _names(spec.columns))
        parts = split_rows(prompts)
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
        rows = completions(read_records(spec.source, spec.split), spec.source, _names(spec.columns))
        held_out = {prompt_hash(row.prompt) for name, part in self.splits.items() if name != "align" for row in part}
        kept = [row for row in rows if prompt_hash(row.prompt) not in held_out][: spec.n]
        if not kept:
            raise InputError(f"data.harmful.source: {spec.source}: all prompts of its {len(rows)} rows are held out")
        return kept

    @cached_property
    def task(self) -> Task:
        """The benign task."""
        spec = self.recipe.data.task
        return load_task(spec.source, spec.kind, spec.split, _names(spec.columns), spec.options)

    def task_identity(self) -> dict[str, Any]:
        """What determines the task's rows."""
        spec = self.recipe.data.task
        return {**spec.model_dump(mode="json"), "content": file_hash(spec.source)}

    def harmful_identity(self) -> dict[str, Any]:
        """What determines the harmful prompts."""
        spec = self.recipe.data.align
        return {**spec.model_dump(mode="json", exclude={"n"}), "content": file_hash(spec.source)}

    def unpaired_identity(self) -> dict[str, Any] | None:
        """What determines the unpaired harmful rows."""
        spec = self.recipe.data.harmful
        return spec and {**spec.model_dump(mode="json"), "content": file_hash(spec.source)}

    def facts(self) -> dict[str, Any]:
        """For the manifest: rows and hash of each split, and the overlaps (0)."""
        everything = {name: list(rows) for name, rows in self.splits.items()}
        return {
            "splits": {name: len(rows) for name, rows in everything.items()},
            "overlaps": overlaps(everything),
            "data": {
                **{name: rows_hash([row.prompt for row in rows]) for name, rows in everything.items()},
                **{f"task {name}": rows_hash([row.prompt for row in rows]) for name, rows in self.task.splits.items()},
            },
        }


def _names(columns: Mapping[Any, str] | None) -> dict[str, str]:
    """Our column names -> the source's."""
    return {str(ours): str(theirs) for ours, theirs in (columns or {}).items()}


def with_refusal(row: HarmfulPrompt) -> HarmfulPrompt:
    """The row with a safe answer, if its source has none."""
    return row if row.chosen is not None else replace(row, chosen=refusal_for(row.prompt))


def file_hash(source: str) -> str | None:
    """sha256 of a local file, or of a local folder's files; None for anything else."""
    path = Path(source)
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def rows_hash(texts: Sequence[str]) -> str:
    """sha256 over texts in order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
