"""Interleaved, paired repeats, and ratios of them: what a machine does meanwhile touches all sides alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Literal, TypeVar

Work = Callable[[int], object]
"""Does the work of one repeat, whose number it is given, so that all sides may read the same rows."""
Seconds = dict[str, list[float]]
"""Of each side, by repeat."""
Side = TypeVar("Side")
RESAMPLES = 2000


def interleaved(works: Mapping[Side, Work], repeats: int) -> dict[Side, list[float]]:
    """Seconds by the wall of each work in each repeat, after one repeat that is not counted.

    The order turns from repeat to repeat, so that no side always follows the same one.
    """
    names = list(works)
    found: dict[Side, list[float]] = {name: [] for name in names}
    for repeat in range(-1, repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            works[name](max(repeat, 0))
            if repeat >= 0:
                found[name].append(time.perf_counter() - started)
    return found


@dataclass(frozen=True)
class Ratio:
    """A median of paired ratios, with its quartiles and the bootstrap's 95% interval.

    Args:
        better: which way a change is an improvement.
        target: what the project wants; None where it is told and not aimed at.
    """

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]
    repeats: int
    better: Literal["lower", "higher"]
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Is the median on the right side of the target?"""
        if self.target is None:
            return None
        return self.median <= self.target if self.better == "lower" else self.median >= self.target

    def worse_than(self, stored: float) -> float:
        """By which share it is worse than a stored median; below 0 where it is better."""
        return self.median / stored - 1 if self.better == "lower" else stored / self.median - 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def ratio(
    over: Sequence[float],
    under: Sequence[float],
    better: Literal["lower", "higher"] = "lower",
    target: float | None = None,
) -> Ratio:
    """The ratio of two sides of `interleaved`, repeat by repeat."""
    pairs = [a / b for a, b in zip(over, under, strict=True)]
    draw = random.Random(0)
    medians = sorted(median(draw.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    interval = (medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1])
    low, _, high = quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else pairs * 3
    return Ratio(median(pairs), (low, high), interval, len(pairs), better, target)
