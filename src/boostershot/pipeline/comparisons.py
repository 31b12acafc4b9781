"""Defences against each other: paired differences on the same seeds and prompts, corrected for how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from boostershot.evaluation.statistics import (
    FEWEST_PAIRS,
    holm,
    paired_difference,
    paired_hierarchical,
    paired_shares,
)

Row = Mapping[str, Any]
Verdicts = Mapping[str, Mapping[str, float]]
Read = Callable[[Row], Verdicts | None]  # one row's per-prompt figures: figure -> prompt id -> value in the row's unit

SHARES = ("harmful_score", "finetune_accuracy", "degenerate_share", "win_rate")  # 0 to 100 for each prompt
TESTED = ("harmful_score", "finetune_accuracy")
_CELL = ("attack", "adapter", "p", "judge", "task", "split")


def difference(
    ours: Mapping[int, Row], theirs: Mapping[int, Row], figure: str, verdicts: Read, family: int = 1
) -> dict[str, Any] | None:
    """`{"mean", "ci", "p", "n_pairs"}` of ours - theirs over the seeds that both have; None where there is none.

    Paired by seed and by the `n_pairs` prompts that all rows have: `statistics.paired_shares`, and of a loss
    `statistics.paired_hierarchical`. Without such prompts, and of a loss with too few for a p, it is paired by seed
    alone (`n_pairs` 0, t interval, no p), and one seed has no interval.

    Args:
        ours, theirs: seed -> row.
        figure: a key of both rows.
        verdicts: a row's per-prompt figures.
        family: among how many comparisons p will be corrected.
    """
    seeds = [s for s in sorted(ours.keys() & theirs.keys()) if None not in (ours[s][figure], theirs[s][figure])]
    if not seeds:
        return None
    sides = [[side[seed] for seed in seeds] for side in (ours, theirs)]
    by_prompt = by_common_prompt([verdicts(row) or {} for side in sides for row in side], figure)
    pairs = len(by_prompt[0]) if by_prompt else 0
    if pairs >= (1 if figure in SHARES else FEWEST_PAIRS):
        a, b = by_prompt[: len(seeds)], by_prompt[len(seeds) :]
        mean, low, high, p = paired_shares(a, b, family) if figure in SHARES else paired_hierarchical(a, b)
        return {"mean": mean, "ci": [low, high], "p": p, "n_pairs": pairs}
    a, b = ([row[figure] for row in side] for side in sides)
    if len(seeds) == 1:
        return {"mean": a[0] - b[0], "ci": None, "p": None, "n_pairs": 0}
    mean, low, high = paired_difference(a, b)
    return {"mean": mean, "ci": [low, high], "p": None, "n_pairs": 0}


def by_common_prompt(rows: Sequence[Verdicts], figure: str) -> list[list[float]]:
    """The figure of each row on the prompts that all rows have it for, in one order; empty where there is none."""
    found = [row.get(figure, {}) for row in rows]
    common = [prompt for prompt in found[0] if all(prompt in one for one in found)] if found else []
    return [[one[prompt] for prompt in common] for one in found] if common else []


def by_any_prompt(rows: Sequence[Verdicts], figure: str) -> list[list[float | None]]:
    """The figure of each row on the prompts that some row has it for, in one order; None where this row does not."""
    found = [row[figure] for row in rows]
    prompts = dict.fromkeys(prompt for one in found for prompt in one)
    return [[one.get(prompt) for prompt in prompts] for one in found]


def comparisons(rows: Sequence[Row], verdicts: Read) -> list[dict[str, Any]]:
    """Every pair of defences under every attack, at the last judged step that both finished.

    Step 0 of an attack with later steps is the model before it, the same under every attack: there is no comparison
    where both did not finish a later one that is judged, such as under a control. Two labels may come to the same
    evaluations: they are told under each, and counted and compared once.

    One item `{attack, adapter, p, judge, task, split, attack_step, a, b, n_seeds, harmful_score, finetune_accuracy}`
    for each; a figure is `difference`'s of a - b with `p_holm`, Holm's p over the `family` of comparisons of that judge
    and figure in the run, and None where it has no p.
    """
    pairs = list(_pairs(rows))
    items = [item for item, _, _ in pairs]
    for judge in dict.fromkeys(item["judge"] for item in items):
        for figure in TESTED:
            _compare([pair for pair in pairs if pair[0]["judge"] == judge], figure, verdicts)
    return items


_Sides = Mapping[int, Row]  # seed -> row
_Pair = tuple[dict[str, Any], _Sides, _Sides]


def _pairs(rows: Sequence[Row]) -> Iterator[_Pair]:
    """Each comparison without its figures, and the rows of both sides."""
    cells: dict[tuple[Any, ...], dict[str, dict[int, dict[int, Row]]]] = {}  # cell -> defence -> step -> seed -> row
    trained = {row["attack"] for row in rows if row["attack_step"] > 0}  # a control's later rows have one judge alone
    for row in rows:
        cell = tuple(row[key] for key in _CELL)
        before = row["attack_step"] == 0 and row["attack"] in trained
        if row["status"] == "done" and row["harmful_score"] is not None and not before:
            by_step = cells.setdefault(cell, {}).setdefault(row["defense"], {})
            by_step.setdefault(row["attack_step"], {})[row["seed"]] = row
    for cell, defenses in cells.items():
        for a, b in combinations(defenses, 2):
            shared = [s for s in defenses[a].keys() & defenses[b].keys() if defenses[a][s].keys() & defenses[b][s]]
            if not shared:
                continue
            step = max(shared)
            ours, theirs = defenses[a][step], defenses[b][step]
            item = {**dict(zip(_CELL, cell, strict=True)), "attack_step": step, "a": a, "b": b}
            yield item | {"n_seeds": len(ours.keys() & theirs.keys())}, ours, theirs


def _compare(pairs: Sequence[_Pair], figure: str, verdicts: Read) -> None:
    """Add the figure to each item, with Holm's p over all of them."""
    found: dict[Any, dict[str, Any] | None] = {}
    for number, (item, ours, theirs) in enumerate(pairs):
        stages = tuple((ours[seed]["stage"], theirs[seed]["stage"]) for seed in sorted(ours.keys() & theirs.keys()))
        same = stages if all(None not in both for both in stages) else number
        if same not in found:
            found[same] = difference(ours, theirs, figure, verdicts, len(pairs))
        item[figure] = found[same]
    tested = [one for one in found.values() if one and one["p"] is not None]
    for one in found.values():
        if one:
            one |= {"p_holm": None, "family": len(tested)}
    for one, adjusted in zip(tested, holm([one["p"] for one in tested]), strict=True):
        one["p_holm"] = adjusted
