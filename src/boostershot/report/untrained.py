"""Attacks that train nothing, beside the answers to plain questions and what fine-tuning reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boostershot.report.words import last_steps, trains

Item = Mapping[str, Any]

PLAINLY = "no attack"


@dataclass(frozen=True)
class Column:
    """One way of attacking: its name, what is to be said of it, and the item of each defence that has one."""

    label: str
    note: str
    by_defense: Mapping[str, Item]


def ways(summary: Sequence[Item]) -> list[Column]:
    """Asked plainly, then every attack without training, then the others at their last finished steps.

    Args:
        summary: items of one judge.

    Returns:
        None of them where the run has no attack without training.
    """
    untrained = [item for item in summary if not trains(item)]
    if not untrained:
        return []
    trained = list(last_steps([item for item in summary if trains(item)]).values())
    plain = [
        item
        for item in summary
        if trains(item) and item["attack_step"] == 0 and item["asked"] == "plain" and item["template"] is None
    ]
    columns = [Column(PLAINLY, "asked plainly", _by_defense(plain))] if plain else []
    for items, note in ((untrained, "no training"), (trained, None)):
        for label in dict.fromkeys(item["attack"] for item in items):
            here = [item for item in items if item["attack"] == label]
            steps = max(item["attack_step"] for item in here)
            columns.append(Column(label, note or f"after {steps} steps", _by_defense(here)))
    return columns


def _by_defense(items: Sequence[Item]) -> dict[str, Item]:
    """The first item of each: of plain questions every attack has the same."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item["defense"], item)
    return found
