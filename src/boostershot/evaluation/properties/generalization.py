"""Generalisation: does immunity reach the harm that the alignment never saw?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boostershot.evaluation.properties.resampling import aligned, percentage, points

Rows = Mapping[str, float]  # prompt id -> 0 or 100


@dataclass(frozen=True)
class Transfer:
    """Immunised on one group of categories, attacked with another; the answers to the latter's held-out prompts."""

    defense: str
    immunised: str
    attacked: str
    seed: int
    harmful: Rows


@dataclass(frozen=True)
class Second:
    """The model immunised on all categories, attacked with its own source's rows or with a second source's.

    Both are scored on held-out prompts of the source of the attack.
    """

    defense: str
    seed: int
    own: Rows
    second: Rows


def generalization(
    transfers: Iterable[Transfer], seconds: Iterable[Second], groups: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """For each defence the matrix of harmful scores, in-domain against cross-domain, and the second source.

    In-domain is the diagonal, cross-domain the other cells. A prompt of a column is answered by every row of it, so the
    difference is taken prompt by prompt, of those that have both: how much easier a category is to attack than another
    does not enter it.
    """
    transfers, seconds = list(transfers), list(seconds)
    labels = dict.fromkeys([t.defense for t in transfers] + [s.defense for s in seconds])
    return {
        "groups": {name: list(categories) for name, categories in groups.items()},
        "defenses": [
            {
                "defense": label,
                **_matrix([t for t in transfers if t.defense == label], list(groups)),
                **_second([s for s in seconds if s.defense == label]),
            }
            for label in labels
        ],
    }


def _matrix(transfers: Sequence[Transfer], groups: Sequence[str]) -> dict[str, Any]:
    cells: dict[tuple[str, str], dict[int, Rows]] = {}
    for one in transfers:
        cells.setdefault((one.immunised, one.attacked), {})[one.seed] = one.harmful
    seeds = sorted({one.seed for one in transfers})
    sides = [_sides(cells, groups, seed) for seed in seeds]
    both = [(own, other) for own, other in sides if own and other]
    keys = aligned(*(rows for pair in both for rows in pair)) if both else []
    paired_own, paired_other = (
        [[rows[key] for key in keys] for rows in side] for side in (zip(*both, strict=True) if both else ((), ()))
    )
    return {
        "seeds": len(seeds),
        "matrix": [[percentage(list(cells.get((row, column), {}).values())) for column in groups] for row in groups],
        "in_domain": percentage([own for own, _ in sides if own]),
        "cross_domain": percentage([other for _, other in sides if other]),
        "difference": points(paired_other, paired_own),
    }


def _sides(
    cells: Mapping[tuple[str, str], Mapping[int, Rows]], groups: Sequence[str], seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Each column's prompts, answered after in-domain immunisation, and after all others: the mean of what is known."""
    own, other = dict[str, float](), dict[str, float]()
    for column in groups:
        rows = {row: cells.get((row, column), {}).get(seed) or {} for row in groups}
        own |= {f"{column}/{key}": value for key, value in rows.pop(column).items()}
        for key in dict.fromkeys(key for one in rows.values() for key in one):
            other[f"{column}/{key}"] = float(np.mean([one[key] for one in rows.values() if key in one]))
    return own, other


def _second(seconds: Sequence[Second]) -> dict[str, Any]:
    if not seconds:
        return {"own_source": None, "second_source": None}
    return {
        "own_source": percentage([one.own for one in seconds]),
        "second_source": percentage([one.second for one in seconds]),
    }
