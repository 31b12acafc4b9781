"""Five disjoint splits by the hash of the normalised prompt: a prompt lands in one, whoever loads it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
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


def split_rows(rows: Iterable[Row], shares: Mapping[str, float] = SPLITS) -> dict[str, list[Row]]:
    """The rows of each split, one row a prompt, ordered by hash so that the first n are a random sample."""
    distinct: dict[str, Row] = {}
    for row in rows:  # of the variants of a prompt the same one is kept in whatever order they come
        key = prompt_hash(row.prompt)
        if key not in distinct or row.prompt >= distinct[key].prompt:
            distinct[key] = row
    parts: dict[str, list[Row]] = {name: [] for name in shares}
    for _, row in sorted(distinct.items()):
        parts[split_of(row.prompt, shares)].append(row)
    return {name: sorted(part, key=lambda row: _order(row.prompt)) for name, part in parts.items()}


def overlaps(parts: Mapping[str, Sequence[HasPrompt]]) -> dict[str, int]:
    """For each pair of splits, the number of prompts that are in both."""
    hashes = {name: {prompt_hash(row.prompt) for row in rows} for name, rows in parts.items()}
    return {f"{a}&{b}": len(hashes[a] & hashes[b]) for a, b in itertools.combinations(hashes, 2)}


def _order(prompt: str) -> str:
    """Another hash than the one that splits, so that neighbours in a split are unrelated."""
    return hashlib.sha256(b"order" + normalise(prompt).encode()).hexdigest()
