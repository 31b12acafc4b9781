"""Line charts with interval bands, as plain geometry that a template draws as inline SVG.

Static SVG needs no script and no network, prints, and takes its colours from the page's light or dark style.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 32, 58, 12, 36
# Series that meet at a step are drawn side by side, and values at the right edge one above the other.
_DODGE, _LABEL_GAP, _HIGHEST_LABEL = 5.0, 14.0, 8.0
STEPS = "attack steps"  # what a chart is over, if nothing else is said
STYLES = 6  # colours, dashes and markers in style.css.j2; the styles repeat after that

Point = tuple[float, float, Sequence[float] | None]  # step, value, interval


@dataclass(frozen=True)
class Series:
    """One line: its points in data units, which style draws it, and whether it is the thinner second kind."""

    label: str
    style: int
    points: Sequence[Point]
    hollow: bool = False


@dataclass(frozen=True)
class Mark:
    """A measured point in pixels, with its whisker."""

    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """A series in pixels: an SVG path, the band around it, its marks, and the value at its end."""

    label: str
    style: int
    hollow: bool
    path: str
    band: str
    marks: Sequence[Mark]
    end: str
    end_y: float


@dataclass(frozen=True)
class Panel:
    """One chart; `says` is the same in words, shown under it and read aloud instead of it."""

    title: str
    note: str
    says: str
    lines: Sequence[Line]
    x_axis: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    base_y: float | None
    frame: tuple[float, float, float, float]  # left, top, right, bottom


def panel(
    title: str,
    note: str,
    says: str,
    series: Sequence[Series],
    *,
    top: float | None,
    digits: int,
    base: float | None,
    x_axis: str = STEPS,
) -> Panel:
    """Lays one chart out. `top` fixes the end of the scale, which starts at 0; `base` is a level to mark.

    Over steps the points are joined from left to right, and ticked; over anything else in the order that they have.
    """
    points = [point for one in series for point in one.points]
    highest = max([base or 0.0, *(max(y, *(ci or [y])) for _, y, ci in points)], default=1.0)
    ticks = _ticks(top or highest or 1.0)
    limit = top or ticks[-1]
    over_steps = x_axis.endswith("steps")
    steps = sorted({step for step, _, _ in points}) or [0.0]
    steps = _thinned(steps) if over_steps else _between(steps[0], steps[-1])
    span = (steps[-1] - steps[0]) or 1.0
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    inner = 3 * _DODGE  # room inside the frame for series that are moved aside

    def x(step: float) -> float:
        return _LEFT + inner + (step - steps[0]) / span * (right - _LEFT - 2 * inner)

    def y(value: float) -> float:
        return bottom - min(value, limit) / limit * (bottom - _TOP)

    lines = []
    for position, one in enumerate(series):
        aside = (position - (len(series) - 1) / 2) * min(_DODGE, 2 * inner / len(series)) if over_steps else 0.0
        marks = [
            Mark(x(step) + aside, y(value), y(ci[0]) if ci else None, y(ci[1]) if ci else None)
            for step, value, ci in (sorted(one.points, key=lambda point: point[0]) if over_steps else one.points)
        ]
        if marks:
            last = max(one.points, key=lambda point: point[0]) if over_steps else one.points[-1]
            end = f"{last[1]:.{digits}f}"
            lines.append(Line(one.label, one.style, one.hollow, _path(marks), _band(marks), marks, end, marks[-1].y))
    return Panel(
        title,
        note,
        says,
        _spread(lines, bottom),
        x_axis,
        [(x(step), f"{step:g}") for step in steps],
        [(y(tick), f"{tick:g}") for tick in ticks],
        None if base is None else y(base),
        (_LEFT, _TOP, right, bottom),
    )


def points(items: Sequence[Any], figure: str) -> list[Point]:
    """The points of one figure over the attack steps, from items of the summary."""
    return [(i["attack_step"], i[figure]["mean"], i[figure]["ci"]) for i in items if i[figure] is not None]


def _path(marks: Sequence[Mark]) -> str:
    return "M" + "L".join(f"{m.x:.1f} {m.y:.1f}" for m in marks)


def _band(marks: Sequence[Mark]) -> str:
    edged = [(m.x, m.low, m.high) for m in marks if m.low is not None and m.high is not None]
    if len(edged) < 2:
        return ""
    there = [f"{x:.1f} {high:.1f}" for x, _, high in edged]
    back = [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(edged)]
    return "M" + "L".join(there + back) + "Z"


def _spread(lines: Sequence[Line], bottom: float) -> list[Line]:
    """The lines with their end labels moved apart: from the lowest upwards, then down again from the picture's top."""
    spread, floor = {}, bottom
    for line in sorted(lines, key=lambda one: -one.end_y):
        floor = min(line.end_y, floor)
        spread[id(line)] = floor
        floor -= _LABEL_GAP
    ceiling = _HIGHEST_LABEL
    for line in sorted(lines, key=lambda one: spread[id(one)]):
        spread[id(line)] = max(spread[id(line)], ceiling)
        ceiling = spread[id(line)] + _LABEL_GAP
    return [replace(line, end_y=spread[id(line)]) for line in lines]


def _ticks(highest: float) -> list[float]:
    """Four to six round ticks from 0 to at least `highest`."""
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(step * i, 10) for i in range(math.ceil(highest / step - 1e-9) + 1)]


def _between(lowest: float, highest: float) -> list[float]:
    """Round ticks from at most 0 and `lowest` to at least `highest`."""
    lowest, highest = min(0.0, lowest), max(0.0, highest)
    above = _ticks(max(highest, -lowest) or 1.0)
    below = [-tick for tick in reversed(above[1:]) if -tick > lowest - above[1]] if lowest < 0 else []
    return [*below, *(tick for tick in above if tick < highest + above[1])]


def _thinned(steps: Sequence[float], most: int = 7) -> list[float]:
    every = math.ceil(len(steps) / most)
    return [*steps[:-1:every], steps[-1]] if every > 1 else list(steps)
