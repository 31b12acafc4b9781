"""A small SVG with logarithmic axes: time and memory over what grows, each relative to its first point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 110, 24, 36
STYLES = {"seconds": ("time", "#1f5fbf", ""), "bytes": ("memory", "#b3541e", "5 4")}  # colours and dashes both tell


def svg(axis: str, points: Sequence[Mapping[str, float]], exponents: Mapping[str, float]) -> str:
    """The chart of one axis, with the fitted exponents beside the lines' ends."""
    first, last = points[0], points[-1]
    highest = max(last[key] / first[key] for key in STYLES) * 1.2
    across, up = math.log(last["at"] / first["at"]), math.log(max(highest, 2.0))

    def x(at: float) -> float:
        return LEFT + math.log(at / first["at"]) / across * (WIDTH - LEFT - RIGHT)

    def y(times: float) -> float:
        return HEIGHT - BOTTOM - max(0.0, math.log(times)) / up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="14">times the first point, over {axis} (both logarithmic)</text>',
    ]
    for power in range(math.ceil(up / math.log(2)) + 1):
        if power * math.log(2) <= up:
            level = y(2**power)
            parts.append(f'<path d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{2**power}</text>')
    for point in points:
        place = f'x="{x(point["at"]):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle"'
        parts.append(f"<text {place}>{_short(point['at'])}</text>")
    ends = [y(last[key] / first[key]) for key in STYLES]
    apart = 8.0 if abs(ends[0] - ends[1]) < 16 else 0.0
    for place, (key, (name, colour, dash)) in enumerate(STYLES.items()):
        marks = [(x(p["at"]), y(p[key] / first[key])) for p in points]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in marks)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in marks]
        shifted = marks[-1][1] + 4 + (apart if ends[place] >= ends[1 - place] and place else -apart)
        label = f"{name}, ^{exponents[key]:.2f}"
        parts.append(f'<text x="{marks[-1][0] + 8:.1f}" y="{shifted:.1f}" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _short(number: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"
