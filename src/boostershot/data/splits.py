"""Five disjoint splits by the hash of the normalised prompt: a prompt lands in one, whoever loads it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

SPLITS = {"align": 0.45, "attack": 0.15, "dev": 0.14, "calibration": 0.06, "test": 0.20}


class HasPrompt(Protocol):
    """Any row with a prompt."""

    @property
    def prompt(self) -> str:
        """What the user asks."""
        ...


Row = TypeVar("Row", bound=HasPrompt)


def normalise(prompt: str) -> str:
    """Lower case, letters and digits only, single spaces: prompts that differ by punctuation are one prompt."""
    return " ".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())


def prompt_hash(prompt: str) -> str:
    """sha256 of the normalised prompt, in hex."""
    return hashlib.sha256(normalise(prompt).encode()).hexdigest()


def split_of(prompt: str, shares: Mapping[str, float] = SPLITS) -> str:
    """The split that a prompt belongs to, with these shares of all prompts."""
    position = int(prompt_hash(prompt)[:13], 16) / 16**13
    for name, end in zip(shares, itertools.accumulate(shares.values()), strict=True):
        if position < end:
            return name
    return list(shares)[-1]  # the shares' sum may fall short of 1 by rounding


def split_rows(
    rows: Iterable[Row],
    shares: Mapping[str, float] = SPLITS,
    *,
    repeated: Collection[str] = (),
    merged: Mapping[str, str] | None = None,
) -> dict[str, list[Row]]:
    """The rows of each split, ordered by hash so that the first n are a random sample.

    Args:
        rows: in any order.
        shares: of all prompts.
        repeated: the splits that have all rows of a prompt; the others have one.
        merged: split -> the one that takes its prompts, such as {"test": "align"}.
    """
    merged = merged or {}
    variants: dict[str, list[Row]] = {}
    for row in rows:
        variants.setdefault(prompt_hash(row.prompt), []).append(row)
    parts: dict[str, list[tuple[str, Row]]] = {name: [] for name in shares if name not in merged}
    for _, alike in sorted(variants.items()):
        name = split_of(alike[0].prompt, shares)
        name = merged.get(name, name)
        # Of the spellings of a prompt the same one is kept in whatever order they come.
        kept = alike if name in repeated else [max(reversed(alike), key=lambda row: row.prompt)]
        parts[name] += [(_order(row.prompt, number), row) for number, row in enumerate(kept)]
    return {name: [row for _, row in sorted(part, key=lambda pair: pair[0])] for name, part in parts.items()}


def overlaps(parts: Mapping[str, Sequence[HasPrompt]]) -> dict[str, int]:
    """For each pair of splits, the number of prompts that are in both."""
    hashes = {name: {prompt_hash(row.prompt) for row in rows} for name, rows in parts.items()}
    return {f"{a}&{b}": len(hashes[a] & hashes[b]) for a, b in itertools.combinations(hashes, 2)}


def _order(prompt: str, number: int = 0) -> str:
    """Another hash than the one that splits, so that neighbours in a split, and rows of one prompt, are unrelated."""
    text = normalise(prompt) + (f"\n{number}" if number else "")
    return hashlib.sha256(b"order" + text.encode()).hexdigest()
