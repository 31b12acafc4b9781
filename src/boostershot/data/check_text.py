"""What `boostershot data check` found, as lines that fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from boostershot.data.check import Checked, Spread
from boostershot.data.visible import cut, visible

CATEGORIES = 20  # that are listed
INDENT = 12  # of what is said of each thing


def lines(found: Checked, width: int) -> Iterator[str]:
    """The report, no line wider than `width` columns but for a single longer word."""
    yield cut(visible(found.source), width)
    yield from _item(
        "Layout", f"{found.layout}: {found.what}" if found.layout else "none that a recipe can read", width
    )
    read = "; a recipe refuses them" if found.read is None else f", of which {found.read:,} are read"
    yield from _item("Rows", f"{found.rows:,}{read}", width)
    yield from _item("Columns", ", ".join(map(_column, found.columns.items())) or "none", width)
    if found.characters:
        yield "Lengths     min / median / p95 / max"
    for ours, characters in found.characters.items():
        yield cut(f"  {ours:<{INDENT - 2}}characters {_spread(characters)}", width)
        yield cut(f"{'':{INDENT}}words {_spread(found.words[ours])}", width)
    repeats = "row repeats" if found.duplicates == 1 else "rows repeat"
    yield from _item("Duplicates", f"{found.duplicates:,} {repeats} an earlier prompt", width)
    yield from _item("Empty", _counts(found.empty) or "no cell", width)
    if found.categories:
        yield f"Categories  {len(found.categories)}"
        yield from _categories(found.categories, width)
    if found.splits:
        yield from _item("Splits", f"{_counts(found.splits)} (distinct prompts, by their hash)", width)
    for other, shared in found.overlaps.items():
        yield from _item(
            "Overlap", f"{shared:,} {'prompt' if shared == 1 else 'prompts'} in {visible(other)} too", width
        )
    yield f"Samples     {len(found.samples)}"
    for number, sample in enumerate(found.samples, start=1):
        for ours, cell in sample.items():
            mark = f"{number}." if ours == next(iter(sample)) else ""
            yield cut(f"  {mark:<3}{ours:<{INDENT - 4}} {visible(cell)}", width)


def _item(name: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, 2 * INDENT), initial_indent=f"{name:<{INDENT}}", subsequent_indent=" " * INDENT,
        break_on_hyphens=False,
    )  # fmt: skip


def _column(pair: tuple[str, str | None]) -> str:
    theirs, ours = pair
    named = visible(theirs)
    return f"{named} (not read)" if ours is None else named if ours == theirs else f"{named} as {ours}"


def _spread(spread: Spread) -> str:
    return f"{spread.min:,} / {spread.median:,g} / {spread.p95:,} / {spread.max:,}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{visible(name)} {n:,}" for name, n in counts.items())


def _categories(categories: Mapping[str, int], width: int) -> Iterator[str]:
    listed = list(categories.items())
    for name, n in listed[:CATEGORIES]:
        yield cut(f"  {n:>{INDENT - 4},}  {visible(name)}", width)
    if listed[CATEGORIES:]:
        rest = sum(n for _, n in listed[CATEGORIES:])
        yield cut(f"  {rest:>{INDENT - 4},}  in {len(listed) - CATEGORIES} more", width)
