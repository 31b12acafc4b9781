"""What a data source holds and how a recipe would understand it: `boostershot data check`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boostershot.data.layouts import Layout, Records, recognise, records_of
from boostershot.data.rows import HarmfulPrompt
from boostershot.data.safe_prompts import SafePrompt
from boostershot.data.splits import HasPrompt, prompt_hash, split_rows
from boostershot.data.tasks import TaskRow
from boostershot.errors import InputError, choices

OURS = (
    "prompt", "chosen", "rejected", "category", "completion", "answer", "sentence", "text", "label", "type"
)  # fmt: skip
SAMPLES = 5
LABELS = 20  # distinct answers at most, to be counted as categories


@dataclass(frozen=True)
class Spread:
    """Length of the cells of a column that hold text."""

    min: int
    median: float
    p95: int
    max: int


@dataclass(frozen=True)
class Checked:
    """What was found; `problem` is the one line with which a recipe would refuse the source, if it would.

    `read` counts the rows that a recipe gets (of BeaverTails the unsafe ones), None if it gets none. Duplicates,
    categories, splits and overlaps are of these; where a recipe would refuse the source, of the prompts as they stand.
    Categories are a row's own; those of a task with few answers are its answers.
    """

    source: str
    layout: str | None
    what: str
    rows: int
    read: int | None
    columns: Mapping[str, str | None]  # the source's -> ours, None for what is not read
    characters: Mapping[str, Spread]  # of our columns
    words: Mapping[str, Spread]
    duplicates: int  # rows whose normalised prompt an earlier row has
    empty: Mapping[str, int]  # the source's column -> cells without anything in it
    categories: Mapping[str, int]
    splits: Mapping[str, int]  # distinct prompts in each split of a recipe
    overlaps: Mapping[str, int]  # other source -> distinct prompts in both
    samples: Sequence[Mapping[str, str]]  # our column -> its whole cell
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def check_data(
    source: str,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    against: Sequence[str] = (),
) -> Checked:
    """Look at a source as a recipe would, and go on where a recipe would stop.

    Args:
        source: a local file, a Hub id or a built-in name.
        split: of a Hub data set.
        columns: our name -> the source's.
        against: other sources; of a Hub data set `owner/name@split` for another split than train.

    Raises:
        InputError: a source cannot be read at all, a column of `columns` is not ours or not the source's.
    """
    names = dict(columns or {})
    records = records_of(source, split)
    there = _columns_of(records)
    for ours, theirs in names.items():
        if ours not in OURS:
            raise InputError(f"--columns {ours}={theirs}: {ours!r} is no column of ours; {choices(ours, OURS)}")
        if theirs not in there:
            raise InputError(f"--columns {ours}={theirs}: {source} has no column {theirs!r}; {choices(theirs, there)}")
    layout, rows, problem = _understood(source, records, names)
    mapped = layout.columns if layout else {}
    reverse = {theirs: ours for ours, theirs in mapped.items()}
    prompts = _prompts(records, mapped) if rows is None else rows
    hashes = [prompt_hash(row.prompt) for row in prompts]
    texts = {ours: [_text(record.get(theirs)) for record in records] for ours, theirs in mapped.items() if ours != "id"}
    shown = {ours: cells for ours, cells in texts.items() if any(cells)}
    return Checked(
        source=source,
        layout=layout and layout.name,
        what=layout.what if layout else "",
        rows=len(records),
        read=None if rows is None else len(rows),
        columns={name: reverse.get(name) for name in there},
        characters={ours: _spread([len(cell) for cell in cells if cell]) for ours, cells in shown.items()},
        words={ours: _spread([len(cell.split()) for cell in cells if cell]) for ours, cells in shown.items()},
        duplicates=0 if layout and layout.name == "text" else len(hashes) - len(set(hashes)),
        empty={name: n for name in there if (n := sum(not _text(record.get(name)).strip() for record in records))},
        categories=_categories(prompts),
        splits=_splits(prompts, layout),
        overlaps={other: len(set(hashes) & _hashes_of(other, names)) for other in against},
        samples=[{ours: texts[ours][number] for ours in texts} for number in _spaced(len(records))],
        problem=problem,
    )


@dataclass(frozen=True)
class _Prompt:
    prompt: str


def _understood(
    source: str, records: Records, columns: Mapping[str, str]
) -> tuple[Layout | None, Sequence[HasPrompt] | None, str | None]:
    """The layout, the rows of a recipe, and why there are none."""
    if not records:
        return None, None, f"{source}: no rows; expected at least one"
    layout = recognise(source, records, columns)
    if layout is None:
        have = ", ".join(_columns_of(records)) or "none"
        return None, None, f"{source}: its columns ({have}) are no layout of ours; expected --columns ours=theirs"
    try:
        return layout, layout.read(), None
    except InputError as error:
        return layout, None, str(error)


def _hashes_of(source: str, columns: Mapping[str, str]) -> set[str]:
    """The prompts of another source, by hash; a source that has the columns named for the first is read with them."""
    path, mark, split = source.rpartition("@")
    name, split_ = (path, split) if mark and not Path(source).exists() else (source, None)
    records = records_of(name, split_)
    there = _columns_of(records)
    layout, rows, problem = _understood(name, records, columns if set(columns.values()) <= set(there) else {})
    if rows is not None:
        return {prompt_hash(row.prompt) for row in rows}
    prompts = _prompts(records, layout.columns if layout else {})
    if not prompts:
        raise InputError(f"--against {problem}")
    return {prompt_hash(row.prompt) for row in prompts}


def _prompts(records: Records, columns: Mapping[str, str]) -> list[_Prompt]:
    """The prompts as they stand, of rows that have one."""
    name = next((columns[ours] for ours in ("prompt", "sentence", "text") if ours in columns), None)
    return [_Prompt(text) for record in records if name and (text := _text(record.get(name)).strip())]


def _columns_of(records: Records) -> list[str]:
    """All columns, in the order in which they come."""
    return list(dict.fromkeys(str(name) for record in records for name in record))


def _text(value: Any) -> str:
    """A cell as text: a conversational one as its message, flags as the names of those that hold."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(_text(one.get("content") if isinstance(one, Mapping) else one) for one in value)
    if isinstance(value, Mapping):
        return ", ".join(str(name) for name, holds in value.items() if holds)
    return "" if value is None else str(value)


def _spread(lengths: Sequence[int]) -> Spread:
    ordered = sorted(lengths)
    return Spread(ordered[0], statistics.median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1])


def _categories(rows: Sequence[Any]) -> dict[str, int]:
    """How many rows are of each category, the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, HarmfulPrompt):
            counts.update(row.categories)
        elif isinstance(row, SafePrompt):
            counts[row.type] += 1
        elif isinstance(row, TaskRow):
            counts[row.answer] += 1
    few = len(counts) <= LABELS or not (rows and isinstance(rows[0], TaskRow))
    return dict(counts.most_common()) if few else {}


def _splits(rows: Sequence[HasPrompt], layout: Layout | None) -> dict[str, int]:
    if layout is None or layout.shares is None:
        return {}
    return {name: len(part) for name, part in split_rows(rows, layout.shares).items()}


def _spaced(rows: int) -> list[int]:
    """Places of the samples: spread over the source."""
    return [number * rows // SAMPLES for number in range(SAMPLES)] if rows > SAMPLES else list(range(rows))
