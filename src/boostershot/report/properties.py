"""What the report draws of the immunisation properties: the scorecard, curves and matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boostershot.report import charts
from boostershot.report.scorecard import Scorecard, reached, scorecard
from boostershot.report.words import estimate, name

Figure = Mapping[str, Any]


@dataclass(frozen=True)
class Matrix:
    """Harmful scores of one defence: rows are what it was immunised on, columns what it was attacked with."""

    title: str
    groups: Sequence[str]
    rows: Sequence[Sequence[Figure | None]]


@dataclass(frozen=True)
class PropertiesView:
    """Everything that the section shows."""

    card: Scorecard
    curves: Sequence[charts.Panel]
    learning: charts.Panel | None
    matrices: Sequence[Matrix]
    groups: Mapping[str, Sequence[str]]


def properties_view(content: Mapping[str, Any] | None, styles: Mapping[str, int]) -> PropertiesView | None:
    """The section of a run whose properties were measured; `styles` are the defences' in the report's other charts."""
    if content is None:
        return None
    general, train = content["generalization"] or {}, content["trainability"]
    matrices = [
        Matrix(name(line["defense"]), list(general["groups"]), line["matrix"])
        for line in general.get("defenses", [])
        if any(cell for row in line["matrix"] for cell in row)
    ]
    learning = _learning(train, styles) if train and "skipped" not in train else None
    groups = general.get("groups", {}) if matrices else {}
    return PropertiesView(scorecard(content), _curves(content["resistance"], styles), learning, matrices, groups)


def _curves(part: Figure | None, styles: Mapping[str, int]) -> list[charts.Panel]:
    """For each attack the harmful score over the relative distance and over the lost utility."""
    if part is None:
        return []
    panels = []
    lost = "perplexity, % over the base model’s" if part["utility"] == "perplexity" else "accuracy lost, points"
    for attack in dict.fromkeys(cell["attack"] for cell in part["cells"]):
        cells = [cell for cell in part["cells"] if cell["attack"] == attack]
        for key, at_break, axis, digits in (
            ("distance", "distance_to_break", "relative distance ‖Δw‖/‖w‖, %", 3),
            ("lost_utility", "lost_utility_at_break", lost, 1),
        ):
            series = [
                charts.Series(name(cell["defense"]), styles.get(cell["defense"], 0), points)
                for cell in cells
                if (points := _points(cell["curve"], key))
            ]
            if series:
                says = f"Harmful score over {axis}. HS reaches {part['threshold']:g}% at: " + "; ".join(
                    f"{name(cell['defense'])} {reached(cell[at_break], cell[at_break]['within'], digits)}"
                    for cell in cells
                    if cell[at_break]
                )
                title = f"{attack}: HS, %"
                panels.append(
                    charts.panel(title, "", f"{says}.", series, top=100, digits=1, base=part["threshold"], x_axis=axis)
                )
    return panels


def _points(curve: Sequence[Figure], key: str) -> list[charts.Point]:
    return [
        (point[key], point["harmful_score"]["mean"], point["harmful_score"]["ci"])
        for point in curve
        if point[key] is not None and point["harmful_score"]
    ]


def _learning(part: Figure, styles: Mapping[str, int]) -> charts.Panel:
    """Accuracy over the steps of the clean fine-tuning; the base model is the thinner line."""

    def points(line: Figure) -> list[charts.Point]:
        return [(p["step"], p["accuracy"]["mean"], p["accuracy"]["ci"]) for p in line["curve"] if p["accuracy"]]

    base = charts.Series(name(None), charts.STYLES - 1, points(part["reference"]), hollow=True)
    arms = [
        charts.Series(name(line["defense"]), styles.get(line["defense"], 0), points(line)) for line in part["defenses"]
    ]
    says = f"After {part['within']} steps: " + "; ".join(
        f"{name(line.get('defense'))} {estimate(line['curve'][-1]['accuracy'])}"
        for line in (part["reference"], *part["defenses"])
    )
    note = f"{part['n']} benign rows, learning rate {part['lr']:g}"
    return charts.panel(
        "Task accuracy, %", note, f"{says}.", [*arms, base], top=100, digits=1, base=None, x_axis="steps"
    )
