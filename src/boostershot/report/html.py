"""Writes DIR/report.html: one file that needs no network and no script, made from the run's result files."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from boostershot.pipeline.files import replace_text
from boostershot.report import charts, words
from boostershot.report.properties import properties_view
from boostershot.report.reading import Answer, Run, read_run
from boostershot.report.sweep import sweep_view
from boostershot.report.untrained import ways

ANSWERS_PER_CELL = 20
# What the answers may take of the file, so that it can be mailed and opens on a phone; in characters.
_ANSWER_LENGTH, _ANSWER_BUDGET = 600, 1_000_000

_FINDINGS_AT_HEAD = 6  # with more, those of other attacks than the first are folded

_COSTS = ("passes_per_step", "steps", "seconds_per_step", "peak_memory_bytes", "trainable_parameters")


@dataclass(frozen=True)
class Answers:
    """The answers of one evaluated cell: those shown, and how many there are."""

    row: Mapping[str, Any]
    shown: Sequence[Answer]
    total: int


@dataclass(frozen=True)
class AttackView:
    """Everything the report draws about one attack label."""

    label: str
    p: float | None
    panels: Sequence[charts.Panel]
    losses: charts.Panel


def write_report(run_folder: Path, redact: bool = False) -> Path:
    """Writes report.html into the run folder, whole or not at all, and returns its path.

    Reads results.json, manifest.json and the generations.jsonl of each stage. With `redact` no generated
    answer is read or written, and the report says so. InputError names a file that is missing or invalid.
    """
    run = read_run(run_folder)
    page = _environment().get_template("report.html.j2").render(_content(run, redact))
    target = run_folder / "report.html"
    replace_text(target, page)
    return target


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("boostershot.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "estimate": words.estimate,
        "p_value": words.p_value,
        "bracket": words.bracket,
        "name": words.name,
        "share": words.share,
        "soft_intervals": words.soft_intervals,
        "breakable": words.breakable,
    }
    return environment


def _content(run: Run, redact: bool) -> dict[str, Any]:
    results, manifest = run.results, run.manifest
    headline = run.of(run.judges[0]) if run.judges else run
    summary = headline.results["summary"]
    attacks = list(dict.fromkeys(item["attack"] for item in summary))
    untrained = {item["attack"] for item in summary if not words.trains(item)}
    # Cells that are compared stand together: attack by attack, step by step.
    summary = sorted(summary, key=lambda item: (attacks.index(item["attack"]), item["attack_step"]))
    rows = [*results["baseline"], *results["rows"]]
    findings, folded = _head(words.findings(summary, run.methods, results["comparisons"], results.get("rewards", [])))
    return {
        "name": results["recipe"],
        "preference": results.get("preference"),
        "model": run.recipe.get("model", {}).get("id", "unknown model"),
        "started": manifest.get("started"),
        "ended": manifest.get("ended"),
        "findings": findings,
        "folded": folded,
        "folded_tones": Counter(finding.tone for finding in folded),
        "caveats": _caveats(run, headline),
        "styles": _styles(run),
        "attacks": [_attack(headline, label) for label in attacks if label not in untrained],
        "ways": ways(summary),
        "has_base": any(row["status"] == "done" for row in results["baseline"]),
        "summary": summary,
        "rows": rows,
        "comparisons": results["comparisons"],
        "differences": [item for item in summary if item["minus_sft"]],
        "reference": next((label for label, method in run.methods.items() if method == "sft"), None),
        "observations": results.get("observations", []),
        "costs": _costs(results["costs"]),
        "splits": manifest["splits"],
        "overlaps": manifest["overlaps"],
        "hashes": list(words.facts(manifest["data"])),
        "judges": results["judges"],
        "panel": run.judges,
        "panel_cells": list(_panel(results["summary"])),
        "agreement": results["agreement"],
        "properties": properties_view(run.properties, _styles(run)),
        "sweep": sweep_view(run.sweep, _styles(run)),
        "redact": redact,
        "answers": {} if redact else _answers(run, [row for row in rows if row["judge"] == run.judges[0]]),
        "answers_per_cell": ANSWERS_PER_CELL,
        "answer_length": _ANSWER_LENGTH,
        "recipe": yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True),
        "versions": list(words.facts(manifest["versions"])),
        "machine": list(words.facts(manifest.get("machine", {})))
        + [(key, str(manifest[key])) for key in ("threads", "git_commit") if manifest.get(key) is not None],
    }


def _head(findings: Sequence[words.Finding]) -> tuple[Sequence[words.Finding], Sequence[words.Finding]]:
    """What the page opens with, and what is folded below it."""
    if len(findings) <= _FINDINGS_AT_HEAD:
        return findings, []
    first = findings[0].attack
    return [one for one in findings if one.attack == first], [one for one in findings if one.attack != first]


def _caveats(run: Run, headline: Run) -> list[str]:
    """What a reader must know before believing the answer."""
    results, manifest = run.results, run.manifest
    found = [words.incoherent(headline.results["summary"], headline.results["baseline"])]
    for judge in run.judges:
        mine = run.of(judge).results
        found.append(words.unjudged(judge, [*mine["baseline"], *mine["rows"]]))
    found = [warning for warning in [*found, run.left_out, run.sweep_left_out] if warning]
    found += words.paid_for(results.get("rewards", []))
    failed = sum(row["status"] != "done" for row in results["rows"])
    if failed:
        found.append(f"{failed} of {len(results['rows'])} cells failed; the table names the errors.")
    unscored = [row["judge"] for row in results["baseline"] if row["status"] != "done"]
    if unscored:
        found.append(f"The base model could not be scored by {', '.join(unscored)}; the table names the errors.")
    if len(manifest["seeds"]) == 1:
        found.append(
            "One seed: the intervals cover the choice of prompts, not another training run. Compare defenses with "
            "three seeds at least."
        )
    overlapping = [pair for pair, count in manifest["overlaps"].items() if count]
    if overlapping:
        found.append(f"Prompts are shared between splits ({', '.join(overlapping)}): do not trust the figures.")
    return found


def _panel(summary: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Each cell with its harmful score by judge's label."""
    cells: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for item in summary:
        cells.setdefault((item["defense"], item["attack"], item["attack_step"]), {})[item["judge"]] = item
    for by_judge in cells.values():
        yield next(iter(by_judge.values())), {judge: item["harmful_score"] for judge, item in by_judge.items()}


def _styles(run: Run) -> dict[str, int]:
    labels = dict.fromkeys([*run.methods, *(item["defense"] for item in run.results["summary"])])
    return {label: position % charts.STYLES for position, label in enumerate(labels)}


def _attack(run: Run, label: str) -> AttackView:
    items = [item for item in run.results["summary"] if item["attack"] == label]
    styles = _styles(run)
    defenses = dict.fromkeys(item["defense"] for item in items)
    by_defense = {label: [item for item in items if item["defense"] == label] for label in defenses}

    def lines(figure: str, hollow: bool = False) -> list[charts.Series]:
        return [
            charts.Series(words.name(defense), styles[defense], charts.points(course, figure), hollow)
            for defense, course in by_defense.items()
        ]

    def share(title: str, note: str, figure: str) -> charts.Panel:
        says, base = words.figure_says(items, figure, 1), _base(run, figure)
        return charts.panel(title, note, says, lines(figure), top=100, digits=1, base=base)

    says = "Held-out rows. " + words.figure_says(items, "harmful_loss", 2)
    own = lines("harmful_loss_own", hollow=True)
    if any(one.points for one in own):
        says += " The attacker’s own rows. " + words.figure_says(items, "harmful_loss_own", 2)
    harmful, base = words.share(items[0]["p"]), _base(run, "harmful_loss")
    panels = [
        share("Harmful score, %", "lower is better", "harmful_score"),
        share("Fine-tune accuracy, %", "higher is better", "finetune_accuracy"),
    ]
    rewards = [item for item in run.results.get("rewards", []) if item["attack"] == label]
    if rewards:
        panels.append(_reward_panel(rewards, styles))
    loss_panel = charts.panel(label, harmful, says, lines("harmful_loss") + own, top=None, digits=2, base=base)
    return AttackView(label, items[0]["p"], panels, loss_panel)


def _reward_panel(items: Sequence[Mapping[str, Any]], styles: Mapping[str, int]) -> charts.Panel:
    """What the attacker was paid over the steps, each point the mean since the one before."""
    series = [
        charts.Series(
            words.name(item["defense"]),
            styles[item["defense"]],
            [(point["to"], point["mean"], point["ci"]) for point in item["points"] if point["mean"] is not None],
        )
        for item in items
    ]
    title, note = f"Reward: {items[0]['reward']}", "higher is what the attack wants"
    return charts.panel(title, note, words.rewards_say(items), series, top=1, digits=2, base=None)


def _base(run: Run, figure: str) -> float | None:
    """The base model's mean figure over the baseline rows."""
    values = [row[figure] for row in run.results["baseline"] if row[figure] is not None]
    return sum(values) / len(values) if values else None


def _costs(costs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a defense: the mean over its seeds."""
    lines = []
    for defense in dict.fromkeys(cost["defense"] for cost in costs):
        mine = [cost for cost in costs if cost["defense"] == defense]
        line: dict[str, Any] = {"defense": defense, "seeds": len(mine)}
        for key in _COSTS:
            line[key] = _mean([cost[key] for cost in mine])
        relative = [cost["relative_to_sft"] for cost in mine if cost["relative_to_sft"]]
        for key in ("time", "memory", "passes"):
            line[key] = _mean([ratio[key] for ratio in relative])
        lines.append(line)
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _answers(run: Run, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Answers]]:
    """Attack label (or "No attack") -> its cells' answers, shortened, until the budget is used up."""
    found: dict[str, list[Answers]] = {}
    left = _ANSWER_BUDGET
    for row in rows:
        if row["status"] != "done":
            continue
        shown, total = run.answers(row, ANSWERS_PER_CELL)
        shown = [Answer(one.id, _shortened(one.text), one.verdict) for one in shown]
        left -= sum(len(one.text) + 100 for one in shown)
        if left < 0:
            shown = []
        found.setdefault(row["attack"] or "No attack", []).append(Answers(row, shown, total))
    return found


def _shortened(text: str) -> str:
    return text if len(text) <= _ANSWER_LENGTH else text[:_ANSWER_LENGTH] + "…"
