"""Is the engine as good as when it was last measured? One line a ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.page import Section, read_ratio

MARGIN = 0.15
"""By which share a ratio may be worse than the stored one. A lost optimisation costs more: one pass too many in a
Booster step is 33%, padded rows or all logits well above that. Medians of a few repeats scatter by less."""


def regressions(stored: Mapping[str, Section], fresh: Mapping[str, Section]) -> tuple[list[str], bool]:
    """A line for each ratio that both have, and whether one is worse by more than the margin."""
    lines, found = [], False
    for name, section in fresh.items():
        if name not in stored:
            continue
        if section["machine"]["threads"] != stored[name]["machine"]["threads"]:
            lines.append(f"{name}: {section['machine']['threads']} threads; the stored run had other ones")
        for label, values in section["ratios"].items():
            before: dict[str, Any] | None = stored[name]["ratios"].get(label)
            if before is None:
                continue
            now, then = read_ratio(values), read_ratio(before)
            worse = now.worse_than(then.median)
            found |= worse > MARGIN
            mark = "REGRESSION" if worse > MARGIN else "ok        "
            lines.append(
                f"{mark} {label}: {now.median:.2f} ({now.interval[0]:.2f} to {now.interval[1]:.2f}), stored "
                f"{then.median:.2f}, {abs(worse):.0%} {'worse' if worse > 0 else 'better'}, margin {MARGIN:.0%}"
            )
    return lines, found
