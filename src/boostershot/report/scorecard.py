"""The scorecard: the four immunisation properties in one table, as a model card quotes it (DIR/scorecard.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boostershot.errors import InputError
from boostershot.pipeline.files import replace_text
from boostershot.report.reading import read_properties
from boostershot.report.words import estimate, name, number

Figure = Mapping[str, Any]
NOTHING = "–"


@dataclass(frozen=True)
class Line:
    """One measure: a text for each defence and for the base model, in the order of the columns."""

    measure: str
    better: str  # lower | higher | "" where neither is meant
    cells: Sequence[str]


@dataclass(frozen=True)
class Scorecard:
    """The lines of each property, and what a reader must know of them."""

    title: str
    columns: Sequence[str]
    properties: Mapping[str, Sequence[Line]]
    notes: Sequence[str]


def write_scorecard(folder: Path) -> Path:
    """Writes scorecard.md from the run folder's properties.json, and returns its path.

    Raises:
        InputError: the properties were not measured, or the file is not what was written.
    """
    content = read_properties(folder)
    if content is None:
        raise InputError(f"{folder / 'properties.json'}: not there; expected a run with --properties")
    path = folder / "scorecard.md"
    replace_text(path, markdown(scorecard(content)))
    return path


def scorecard(content: Mapping[str, Any]) -> Scorecard:
    """The scorecard of a properties.json."""
    labels = list(content["defenses"])
    kinds = {"Resistance": _resistance, "Stability": _stability, "Generalization": _generalization,
             "Trainability": _trainability}  # fmt: skip
    keys = ("resistance", "stability", "generalization", "trainability")
    properties = {
        title: [
            Line(line.measure, line.better, [*line.cells[1:], line.cells[0]])  # the defences are what is asked about
            for line in (lines(content[key], labels) if content[key] else ())
        ]
        for (title, lines), key in zip(kinds.items(), keys, strict=True)
    }
    title = f"Immunization scorecard: {content['model']}, recipe {content['recipe']}"
    return Scorecard(title, [*map(name, labels), name(None)], properties, list(_notes(content)))


def markdown(card: Scorecard) -> str:
    """The scorecard as Markdown."""
    arrows = {"lower": " (lower is better)", "higher": " (higher is better)", "": ""}
    lines = [f"# {card.title}", "", "| Property | Measure | " + " | ".join(map(_cell, card.columns)) + " |"]
    lines.append("|" + "---|" * (len(card.columns) + 2))
    for title, measures in card.properties.items():
        for number_, line in enumerate(measures):
            first = f"**{title}**" if number_ == 0 else ""
            cells = " | ".join(map(_cell, [first, line.measure + arrows[line.better], *line.cells]))
            lines.append(f"| {cells} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in card.notes)]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def reached(figure: Figure | None, within: float | None, digits: int = 1) -> str:
    """A figure that may not have been reached: "12.5 [9.1, > 20]", or "not within 20 [> 20]"."""
    if figure is None:
        return NOTHING
    if figure["mean"] is None and within is None:
        return "not broken"
    beyond = "?" if within is None else f"> {number(within, 0 if float(within).is_integer() else digits)}"
    text = f"not within {beyond[2:]}" if figure["mean"] is None else number(figure["mean"], digits)
    if not figure["ci"]:
        return text
    low, high = (beyond if bound is None else number(bound, digits) for bound in figure["ci"])
    return text if low == high == beyond else f"{text} [{low}, {high}]"


def _by_label(lines: Sequence[Figure], labels: Sequence[str]) -> list[Figure | None]:
    found = {line["defense"]: line for line in lines}
    return [found.get(label) for label in labels]


def _texts(lines: Sequence[Figure | None], key: str, digits: int = 1, signed: bool = False) -> list[str]:
    return [NOTHING if line is None else estimate(line[key], digits, signed) for line in lines]


# Each of these gives its cells with the base model first.
def _resistance(part: Figure, labels: Sequence[str]) -> Iterator[Line]:
    lines = _by_label(part["defenses"], labels)
    cells = part["cells"]
    attacks = list(dict.fromkeys(cell["attack"] for cell in cells))
    breaks = []
    for line in lines:
        if line is None:
            breaks.append(NOTHING)
            continue
        mine = [cell for cell in cells if cell["defense"] == line["defense"]]
        figure = mine[0]["steps_to_break"] if line["courses"] == 1 else line["steps_to_break"]
        breaks.append(reached(figure, line["within"]))
    yield Line(f"steps until HS > {part['threshold']:g}%, Kaplan-Meier median", "higher", [NOTHING, *breaks])
    broken = [NOTHING if line is None else f"{line['broken']} of {line['courses']}" for line in lines]
    yield Line("↳ attacks that got there", "lower", [NOTHING, *broken])
    yield Line("area under the HS curve, %", "lower", [NOTHING, *_texts(lines, "area")])
    slopes = _texts(lines, "loss_slope", 2, signed=True)
    yield Line("slope of the harmful loss, nats a token in 100 steps", "higher", [NOTHING, *slopes])
    kind = "perplexity, % over the base model's" if part["utility"] == "perplexity" else "task accuracy, points"
    for attack in attacks:
        under = f" ({attack})" if len(attacks) > 1 else ""
        here = _by_label([cell for cell in cells if cell["attack"] == attack], labels)
        for measure, key, better in (
            (f"relative distance ‖Δw‖/‖w‖ at the break, %{under}", "distance_to_break", "higher"),
            (f"utility lost at the break: {kind}{under}", "lost_utility_at_break", ""),
        ):
            found = [None if cell is None else cell[key] for cell in here]
            texts = [NOTHING if one is None else reached(one, one["within"], 3 if better else 1) for one in found]
            yield Line(measure, better, [NOTHING, *texts])


def _stability(part: Figure, labels: Sequence[str]) -> Iterator[Line]:
    before, lines = part["before"], _by_label(part["defenses"], labels)
    for measure, key, change, better, changed, digits in (
        ("task accuracy before any fine-tuning, %", "accuracy", "accuracy_change", "higher", "change, points", 1),
        ("perplexity on neutral text", "perplexity", "perplexity_ratio", "lower", "ratio", 2),
        ("over-refusal of safe prompts, %", "over_refusal", "over_refusal_change", "lower", "change, points", 1),
    ):
        yield Line(measure, better, [estimate(before[key], digits), *_texts(lines, key, digits)])
        signed = changed != "ratio"
        yield Line(f"↳ {changed}", "", [NOTHING, *_texts(lines, change, digits, signed)])
    for task, metrics in before["benchmarks"].items():
        for metric, figure in metrics.items():
            after = [estimate((line or {}).get("benchmarks", {}).get(task, {}).get(metric), 3) for line in lines]
            yield Line(f"lm-eval {task}, {metric}", "", [estimate(figure, 3), *after])


def _generalization(part: Figure, labels: Sequence[str]) -> Iterator[Line]:
    lines = _by_label(part.get("defenses", []), labels)
    if any(line and line["in_domain"] for line in lines):
        after = f"HS after {part['steps']} steps"
        yield Line(f"{after}, harm aligned on (in-domain), %", "lower", [NOTHING, *_texts(lines, "in_domain")])
        yield Line(f"{after}, other harm (cross-domain), %", "lower", [NOTHING, *_texts(lines, "cross_domain")])
        difference = _texts(lines, "difference", signed=True)
        yield Line("↳ cross-domain less in-domain, points", "lower", [NOTHING, *difference])
    if any(line and line["second_source"] for line in lines):
        yield Line("HS under attack, own source, %", "lower", [NOTHING, *_texts(lines, "own_source")])
        measure = f"HS under attack, second source {part['second']}, %"
        yield Line(measure, "lower", [NOTHING, *_texts(lines, "second_source")])


def _trainability(part: Figure, labels: Sequence[str]) -> Iterator[Line]:
    if "skipped" in part:
        return
    base, lines, within = part["reference"], _by_label(part["defenses"], labels), part["within"]

    def final(line: Figure | None) -> str:
        return NOTHING if line is None else estimate(line["curve"][-1]["accuracy"])

    measure = f"task accuracy after {within} clean steps, %"
    yield Line(measure, "higher", [final(base), *map(final, lines)])
    steps = [NOTHING if one is None else reached(one["steps_to_share"], within) for one in (base, *lines)]
    yield Line(f"steps to {part['share']:g}% of the base model's final accuracy", "lower", steps)
    ratios = [NOTHING if line is None else _ratio(line["ratio"]) for line in lines]
    yield Line("↳ ratio to the base model's steps", "lower", [NOTHING, *ratios])


def _ratio(figure: Figure) -> str:
    """A ratio of steps; not reached is more than the attack had."""
    if figure["ci"] is None:
        return NOTHING if figure["mean"] is None else number(figure["mean"], 2)
    low, high = ("∞" if bound is None else number(bound, 2) for bound in figure["ci"])
    text = "not reached" if figure["mean"] is None else number(figure["mean"], 2)
    return text if low == high == "∞" else f"{text} [{low}, {high}]"


def _notes(content: Mapping[str, Any]) -> Iterator[str]:
    seeds = len(content["seeds"])
    if seeds == 1:
        yield "One seed: the intervals cover the choice of prompts, texts and rows, not another training run."
    else:
        yield f"{seeds} seeds: the intervals cover seeds, and one draw of prompts, texts or rows for all of them (95%)."
    yield (
        "Steps until the break over several attacks are Kaplan-Meier's, which counts attacks and seeds and draws no "
        "prompts. Distance and utility at the break draw the prompts of HS, and no texts or task rows."
    )
    yield f"HS (harmful score) by the judge {content['judge']}; the benign task is {content['task']}."
    if content["unknown"]:
        yield f"The judge had no verdict on {content['unknown']} answers; they are left out."
    part = content["resistance"]
    if part:
        for line in part["defenses"]:
            if line["broken"] < line["courses"]:
                left = f"{line['courses'] - line['broken']} of {line['courses']} attacks"
                yield (
                    f"{name(line['defense'])}: {left} did not bring HS above {part['threshold']:g}% within the steps "
                    f"that they took (at most {line['within']}). That is no proof against longer or stronger ones."
                )
        if any(line["courses"] == 1 for line in part["defenses"]):
            yield "Steps until the break with a single attack and seed: its interval is over prompts."
    for key in ("resistance", "stability", "generalization", "trainability"):
        if content[key] is None:
            yield f"{key.capitalize()} was not measured."
        elif "skipped" in content[key]:
            yield f"{key.capitalize()}: not all was measured, for {content[key]['skipped']}."
    for one in content["failed"]:
        yield f"Failed: {one['property']}, {one['what']}: {one['error']}"
