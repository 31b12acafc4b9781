"""The results table that a run ends with: readable at 60 columns, never with a cut digit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from boostershot.report.reading import judges_of
from boostershot.report.untrained import PLAINLY, ways
from boostershot.report.words import (
    incoherent,
    last_steps,
    name,
    number,
    paid_for,
    rewards_say,
    share,
    trains,
    unjudged,
)

Item = Mapping[str, Any]


def results_table(results: Mapping[str, Any]) -> RenderableType:
    """For each attack of results.json a table of its defenses at the last finished step.

    Harmful score and fine-tune accuracy in percent with 95% intervals (bounds rounded to whole percents),
    harmful loss in nats a token, share of degenerate answers in percent, seeds; the harmful scores by other judges
    than the recipe's first; failed cells and why; what a reader must know of unknown verdicts and degenerate answers.
    Of a task that no rule scores the win rate against its reference answers, in percent, or else their log-likelihood,
    in nats a token, stands in the accuracy's place.
    """
    judges = judges_of(results)
    by_judge = {j: [item for item in results["summary"] if item["judge"] == j] for j in judges}
    last = {judge: last_steps(items) for judge, items in by_judge.items()}
    attacks = list(dict.fromkeys(row["attack"] for row in results["rows"] if trains(row)))
    parts: list[RenderableType] = []
    for attack in attacks:
        here = {judge: [item for (_, of), item in items.items() if of == attack] for judge, items in last.items()}
        parts += [_attack(attack, here[judges[0]]), *(_other(j, here[j]) for j in judges[1:] if here[j])]
        rewards = [item for item in results.get("rewards", []) if item["attack"] == attack]
        parts += [*([Text(rewards_say(rewards))] if rewards else []), Text()]
    untrained = list(dict.fromkeys(row["attack"] for row in results["rows"] if not trains(row)))
    parts += _untrained(untrained, by_judge) if untrained else []
    parts += [_warning(text) for text in _warnings(results, by_judge)]
    parts += [_base(row) for row in results["baseline"][:1] if row["status"] == "done"]
    parts += [_failed(row) for row in [*results["baseline"], *results["rows"]] if row["status"] != "done"]
    return Group(*parts)


def _attack(attack: str, items: Sequence[Item]) -> RenderableType:
    title = Text(attack, style="bold")
    if not items:
        return title.append(": no cell was finished", style="default")
    p, steps = items[0]["p"], max(item["attack_step"] for item in items)
    title.append(f"  {share(p)}{', ' if p is not None else ''}after {steps} steps", style="not bold dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    # The label gives way at a narrow terminal, the figures never do.
    table.add_column("defense", overflow="fold", min_width=7)
    task, usefulness = _usefulness(items)
    for heading, width in (
        ("HS %", 13),
        (task, 13),
        ("loss", 4),
        ("degen %", 7),
        ("seeds", 5),
    ):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for item in items:
        late = "" if item["attack_step"] == steps else f" (step {item['attack_step']})"
        table.add_row(
            name(item["defense"]) + late,
            _estimate(item["harmful_score"]),
            usefulness(item),
            _mean(item["harmful_loss"], 2),
            _mean(item["degenerate_share"], 1),
            str(item["n_seeds"]),
        )
    return Group(title, table)


def _usefulness(items: Sequence[Item]) -> tuple[str, Callable[[Item], str]]:
    """What is told of the task: the heading, and the figure of an item."""
    if any(item.get("win_rate") for item in items):
        return "win %", lambda item: _estimate(item.get("win_rate"))
    if any(item.get("task_log_likelihood") for item in items):
        return "task log p", lambda item: _likelihood(item.get("task_log_likelihood"))
    return "FA %", lambda item: _estimate(item["finetune_accuracy"])


def _untrained(attacks: Sequence[str], by_judge: Mapping[str, Sequence[Item]]) -> Iterator[RenderableType]:
    """One table for all attacks without training, with what the models say when they are asked plainly."""
    (_, items), *others = by_judge.items()
    columns = [column for column in ways(items) if column.label in (PLAINLY, *attacks)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("attack", overflow="fold", min_width=7)
    table.add_column("defense", overflow="fold", min_width=7)
    for heading, width in (("HS %", 13), ("FA %", 13), ("degen %", 7)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for column in columns:
        for place, (defense, item) in enumerate(column.by_defense.items()):
            table.add_row(
                "" if place else column.label,
                name(defense),
                _estimate(item["harmful_score"]),
                _estimate(item["finetune_accuracy"]),
                _mean(item["degenerate_share"], 1),
            )
    yield Text.assemble(("Without training", "bold"), ("  beside answers to plain questions", "dim"))
    yield table
    for judge, theirs in others:
        for column in ways(theirs):
            if column.label in attacks:
                yield Text(f"{column.label}: ").append(_other(judge, list(column.by_defense.values())))
    found = {column.label for column in columns}
    yield from (Text(f"{attack}: no cell was finished") for attack in attacks if attack not in found)
    yield Text()


def _other(judge: str, items: Sequence[Item]) -> Text:
    scores = ", ".join(f"{name(item['defense'])} {_estimate(item['harmful_score'])}" for item in items)
    return Text(f"HS % by {judge}: {scores}")


def _warnings(results: Mapping[str, Any], by_judge: Mapping[str, Sequence[Item]]) -> Iterator[str]:
    for position, (judge, items) in enumerate(by_judge.items()):
        baseline, rows = ([row for row in results[part] if row["judge"] == judge] for part in ("baseline", "rows"))
        broken = incoherent(items, baseline) if position == 0 else None  # it is the same whoever judges
        yield from (text for text in (broken, unjudged(judge, [*baseline, *rows])) if text)
    yield from paid_for(results.get("rewards", []))


def _warning(text: str) -> Text:
    return Text(text, style="yellow")


def _base(row: Item) -> Text:
    text = f"Base model, not aligned: HS {number(row['harmful_score'])}, FA {number(row['finetune_accuracy'])}, "
    return Text(text + f"loss {number(row['harmful_loss'], 2)}", style="dim")


def _failed(row: Item) -> Text:
    where = f"{name(row['defense'])}, {row['attack']}, seed {row['seed']}, step {row['attack_step']}"
    if row["defense"] is None:
        where = f"base model, judged by {row['judge']}"
    return Text(f"failed: {where}: {row['error'] or 'no reason was recorded'}", style="red")


def _estimate(figure: Item | None) -> str:
    if figure is None:
        return "–"
    ci = figure["ci"]
    mean = "100" if figure["mean"] == 100 else number(figure["mean"])
    return mean + ("" if ci is None else f" [{number(ci[0], 0)}, {number(ci[1], 0)}]")


def _likelihood(figure: Item | None) -> str:
    if figure is None:
        return "–"
    ci = figure["ci"]
    return number(figure["mean"], 2) + ("" if ci is None else f" [{number(ci[0], 1)}, {number(ci[1], 1)}]")


def _mean(figure: Item | None, digits: int) -> str:
    return "–" if figure is None else number(figure["mean"], digits)
