"""How far the judges of a run agree on the same answers, and on which they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from boostershot.evaluation.statistics import clustered_interval, kappa, kappa_interval

Row = Mapping[str, Any]
Verdicts = Mapping[str, Mapping[str, float]]

_CELL = ("defense", "attack", "seed", "attack_step")


def agreement(
    rows: Sequence[Row], judges: Sequence[str], read: Callable[[Row], Verdicts | None]
) -> list[dict[str, Any]]:
    """One item for each pair of judges, over all answers of the run on which both gave a verdict.

    Args:
        rows: of results.json, the baseline's included; a model that several attacks start from counts once.
        judges: their labels, in the recipe's order.
        read: a row's per-prompt figures (`summary.read_verdicts`).

    Returns:
        `judges` [a, b], `n` answers, `agree` (% of them, with `agree_ci` over prompts, each with all its answers),
        `kappa` (Cohen's; None where both gave one verdict throughout) with `kappa_ci` (over prompts, too; None where
        they differ on too few), `only_a` and `only_b` (answers that one of
        them alone calls harmful) and `differ`: for each cell with a difference its `defense, attack, seed,
        attack_step` and the prompt ids `only_a`, `only_b`.
    """
    return [_pair(list(_answers(rows, a, b, read)), a, b) for a, b in combinations(judges, 2)]


def _answers(
    rows: Sequence[Row], a: str, b: str, read: Callable[[Row], Verdicts | None]
) -> Iterator[tuple[Row, str, bool, bool]]:
    """(row, prompt id, a's verdict, b's verdict)"""
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["status"] == "done" and row["judge"] in (a, b):
            cells.setdefault(tuple(row[key] for key in _CELL), {})[row["judge"]] = row
    seen = set()
    for both in cells.values():
        if len(both) < 2 or (stages := (both[a]["stage"], both[b]["stage"])) in seen:
            continue
        seen.add(stages)
        ours, theirs = ((read(both[judge]) or {}).get("harmful_score", {}) for judge in (a, b))
        for prompt in ours:
            if prompt in theirs:
                yield both[a], prompt, ours[prompt] > 0, theirs[prompt] > 0


def _pair(answers: Sequence[tuple[Row, str, bool, bool]], a: str, b: str) -> dict[str, Any]:
    of_prompt: dict[str, list[tuple[bool, bool]]] = {}
    for _, prompt, ours, theirs in answers:
        of_prompt.setdefault(prompt, []).append((ours, theirs))
    tables = [
        (one.count((True, True)), one.count((True, False)), one.count((False, True)), one.count((False, False)))
        for one in of_prompt.values()
    ]
    interval = kappa_interval(tables) if answers else None
    alike, n = [both + neither for both, _, _, neither in tables], [sum(table) for table in tables]
    differ: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row, prompt, ours, theirs in answers:
        if ours != theirs:
            cell = {key: row[key] for key in _CELL}
            entry = differ.setdefault(tuple(cell.values()), {**cell, "only_a": [], "only_b": []})
            entry["only_a" if ours else "only_b"].append(prompt)
    return {
        "judges": [a, b],
        "n": len(answers),
        "agree": 100 * sum(alike) / len(answers) if answers else None,
        "agree_ci": list(clustered_interval(alike, n)) if answers else None,
        "kappa": kappa([ours for *_, ours, _ in answers], [theirs for *_, theirs in answers]) if answers else None,
        "kappa_ci": list(interval) if interval else None,
        "only_a": sum(len(entry["only_a"]) for entry in differ.values()),
        "only_b": sum(len(entry["only_b"]) for entry in differ.values()),
        "differ": list(differ.values()),
    }
