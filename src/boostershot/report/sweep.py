"""What the report and the terminal show of a tuned attacker: worst cases by bound, cost to break, curves, verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from boostershot.report import charts
from boostershot.report.words import estimate, name, number

Content = Mapping[str, Any]

_AXES = {"trials": "trials", "steps": "optimiser steps of a trial, at most", "samples": "rows of a trial, at most"}


@dataclass(frozen=True)
class Line:
    """One defence in the table of worst cases; texts."""

    defense: str
    before: str
    honest: str  # the accuracy after benign rows alone
    worst: Sequence[str]  # one a bound, the last without
    again: str
    accuracy: str
    cost: str


@dataclass(frozen=True)
class SweepView:
    """Everything that the section shows."""

    budget: str
    scored: tuple[str, str]  # the split that the search was scored on, and that of the re-runs
    resolution: str
    verdicts: Sequence[tuple[str, str]]  # sentence, tone
    bounds: Sequence[str]
    lines: Sequence[Line]
    second: Sequence[tuple[str, Content | None, Content | None]]  # defence, the default attack, the worst
    curves: Sequence[charts.Panel]
    winners: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # defence -> key, value
    importance: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]  # defence, of which trials, key and share
    defender: Sequence[tuple[str, str]]
    trials: Sequence[tuple[str, Content]]
    failed: Sequence[Content]
    space: str


def sweep_view(content: Content | None, styles: Mapping[str, int]) -> SweepView | None:
    """The section of a run that was swept; `styles` are the defences' in the report's other charts."""
    if content is None:
        return None
    items = content["defenses"]
    return SweepView(
        _budget(content),
        (content["search_split"], content["split"]),
        _resolution(content),
        [(item["verdict"], item["tone"]) for item in items],
        _bounds(content),
        [_line(item) for item in items],
        [(name(item["defense"]), *_second(item)) for item in items if item["second"]],
        list(_curves(content, styles)),
        [(name(item["defense"]), list(_attack(item["winner"]["attack"]))) for item in items if item["winner"]],
        [(name(item["defense"]), *_importance(item["importance"])) for item in items if item["importance"]],
        list(_defender(content["defender"])),
        [(name(item["defense"]), trial) for item in items for trial in item["trials"]],
        content["failed"],
        yaml.safe_dump({"space": content["attacker"]["space"]}, sort_keys=False, allow_unicode=True),
    )


def sweep_table(content: Content) -> RenderableType:
    """The worst cases of sweep.json by bound, the worst one again on fresh seeds, and a verdict a defence."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("defense", overflow="fold", min_width=7)
    for bound in _bounds(content):
        table.add_column(bound, justify="right", no_wrap=True)
    table.add_column("again", justify="right", no_wrap=True)
    table.add_column("honest", justify="right", no_wrap=True)
    for item in content["defenses"]:
        line = _line(item)
        table.add_row(line.defense, *line.worst, line.again, line.honest)
    title = Text("Tuned attacker", style="bold").append(f"  {_budget(content)}", style="not bold dim")
    note = Text(
        f"HS % of the worst case by the utility it may lose, on {content['search_split']}; again: the worst one on "
        f"fresh seeds, on {content['split']}; honest: the accuracy after benign rows alone, on "
        f"{content['search_split']}. {_resolution(content)}".rstrip(),
        style="dim",
    )
    second = [Text(_second_says(item)) for item in content["defenses"] if item["second"]]
    failed = [Text(f"failed: {one['defense']}: {one['error']}", style="red") for one in content["failed"]]
    return Group(title, table, note, *(Text(item["verdict"]) for item in content["defenses"]), *second, *failed)


def _second_says(item: Content) -> str:
    default, worst = (number(one["harmful_score"]) if one else "no score" for one in _second(item))
    return (
        f"{name(item['defense'])}, on a second source: HS {default} after the attack untuned, {worst} after the worst"
    )


def _budget(content: Content) -> str:
    attacker = content["attacker"]
    scored = f", the {attacker['finalists']} best of them judged" if attacker["finalists"] else ""
    return (
        f"{attacker['trials']} trials a defense of at most {attacker['steps']} steps and {attacker['samples']} rows, "
        f"{attacker['generation']} proposed at a time{scored}"
    )


def _resolution(content: Content) -> str:
    """How fine a bound on the accuracy can be told with the rows of the task that were scored."""
    known = [100 * item["resolution"] for item in content["defenses"] if item["resolution"] is not None]
    if not known:
        return ""
    span = (
        f"{min(known):.0f}%" if f"{min(known):.0f}" == f"{max(known):.0f}" else f"{min(known):.0f} to {max(known):.0f}%"
    )
    return (
        f"One standard error of a difference of accuracies is {span} of the best: a tighter bound is below the noise."
    )


def _bounds(content: Content) -> list[str]:
    return [*(f"≤ {100 * epsilon:g}%" for epsilon in content["attacker"]["epsilons"]), "any"]


def _line(item: Content) -> Line:
    winner, cost = item["winner"] or {}, item["cost_to_break"]["bounded"]
    spent = "not broken" if winner else "no score"
    if cost and cost["trial"] is None:
        spent = "needs no fine-tuning"
    elif cost:
        spent = f"{cost['steps']} × {cost['samples']} × {cost['trials']} = {cost['product']:,}"
    before = item["before"] or {}
    return Line(
        name(item["defense"]),
        number(before.get("harmful_score")),
        _honest(item),
        [_worst(one) for one in item["worst"]],
        estimate(winner.get("harmful_score")) if winner else "no score",
        estimate(winner.get("finetune_accuracy")) if winner else "–",
        spent,
    )


def _honest(item: Content) -> str:
    """The accuracy after benign rows alone; a dash where the utility is another."""
    return "–" if item["honest"]["utility"] is None else number(item["honest"]["utility"])


def _second(item: Content) -> tuple[Content | None, Content | None]:
    """What the attack that the trials start from, and the worst one, reached on the second source."""
    found = {one["attack"]: one for one in item["second"]}
    return found.get("default"), found.get("worst")


def _worst(one: Content) -> str:
    return "no score" if one["trial"] is None else number(one["harmful_score"])


def _curves(content: Content, styles: Mapping[str, int]) -> Iterator[charts.Panel]:
    threshold, bound = content["attacker"]["threshold"], 100 * content["attacker"]["bound"]
    for axis, words in _AXES.items():
        curves = {item["defense"]: item["curves"][axis] for item in content["defenses"] if item["curves"][axis]}
        if len({budget for points in curves.values() for budget, _ in points}) < 2:
            continue  # all trials spent the same, or there is no score
        last = max(points[-1][0] for points in curves.values())
        series = [
            charts.Series(name(label), styles.get(label, 0), [*_stairs(points, last)])
            for label, points in curves.items()
        ]
        ends = "; ".join(f"{name(label)} {number(points[-1][1])}" for label, points in curves.items())
        says = f"The worst case within a loss of {bound:g}% of the utility, over {words}. At the end: {ends}."
        title = f"Worst-case HS over {axis}, %"
        yield charts.panel(title, "", says, series, top=100, digits=1, base=threshold, x_axis=words)


def _stairs(points: Sequence[Sequence[float]], last: float) -> Iterator[charts.Point]:
    """A worst case holds until the next one: a step, and not a slope."""
    for (x, y), (until, _) in zip(points, [*points[1:], (last, 0)], strict=True):
        yield x, y, None
        if until > x:
            yield until, y, None


def _attack(settings: Content, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _attack(value, f"{prefix}{key}.")
        elif value is not None and key not in ("eval_steps", "judged"):
            yield f"{prefix}{key}", f"{value:g}" if isinstance(value, float) else str(value)


def _importance(found: Content) -> tuple[str, list[tuple[str, str]]]:
    ordered = sorted(found["shares"].items(), key=lambda pair: -pair[1])
    return f"the best {found['best']} of {found['of']}", [(key, number(100 * share, 0)) for key, share in ordered]


def _defender(tuned: Mapping[str, Content]) -> Iterator[tuple[str, str]]:
    for label, one in tuned.items():
        if one["chosen"] is None:
            yield (
                name(label),
                f"none of {len(one['trials'])} settings was within the bound; the recipe's own was attacked",
            )
            continue
        chosen = next(trial for trial in one["trials"] if trial["trial"] == one["chosen"]["trial"])
        values = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                           for key, value in chosen["values"].items())  # fmt: skip
        yield (
            name(label),
            f"{values}: HS {number(chosen['harmful_score'])}, FA {number(chosen['finetune_accuracy'])} on dev, "
            f"the best of {len(one['trials'])} settings",
        )
