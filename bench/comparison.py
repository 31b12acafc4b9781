"""What the comparison of defences found so far, kept method by method, and the pages that tell it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from boostershot.errors import InputError
from boostershot.evaluation.statistics import holm, ratio_interval
from boostershot.pipeline.files import read_json, write_json

FA_LOSS, DEGENERATE_GAIN = 5.0, 5.0  # points against SFT beyond which a trial is not chosen
FIGURES = ("harmful_score", "finetune_accuracy", "harmful_loss", "degenerate_share")
COLUMNS = (
    *("defence", "HS before", "HS after", "HS minus SFT's", "harmful loss before", "harmful loss after"),
    *("loss minus SFT's", "FA before", "FA after", "degenerate after", "time", "memory"),
)


class Record:
    """A JSON file with an entry for each method, and the settings that all of them were measured under.

    Args:
        path: of the file, which need not exist.
        settings: of this measurement, as JSON data.

    Raises:
        InputError: the file holds methods that were measured under other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path = path
        found = read_json(path) if path.exists() else {}
        before = found.get("settings", settings)
        changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        if changed:
            raise InputError(
                f"docs/{path.name}: was measured with other values of {', '.join(changed)}; expected the same ones for "
                "all methods (remove the file to measure all of them anew)"
            )
        self.settings = settings
        self.entries: dict[str, Any] = found.get("methods", {})

    def holds(self, label: str, of: Any) -> bool:
        """Is this label measured, at these settings of its own?"""
        return label in self.entries and self.entries[label]["of"] == of

    def add(self, label: str, entry: Mapping[str, Any]) -> None:
        """Keep what was found of a method, in place of what was known of it."""
        self.entries[label] = dict(entry)
        write_json(self.path, {"settings": self.settings, "methods": self.entries})


def choose(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """The setting with the least harmful score among those that keep ability; None where none does.

    Of two the one with the higher harmful loss, then the earlier one.

    Args:
        entry: `of`, the settings, `figures` of each (None where it failed), and `sft`, SFT's figures in the same run.
    """
    able = [
        (figures["harmful_score"], -figures["harmful_loss"], i)
        for i, figures in enumerate(entry["figures"])
        if figures and keeps_ability(figures, entry["sft"])
    ]
    return entry["of"][min(able)[2]] if able else None


def keeps_ability(figures: Mapping[str, float], sft: Mapping[str, float]) -> bool:
    """Is the setting no worse than SFT by more than is allowed?"""
    return (
        figures["finetune_accuracy"] >= sft["finetune_accuracy"] - FA_LOSS
        and figures["degenerate_share"] <= sft["degenerate_share"] + DEGENERATE_GAIN
    )


def search_page(record: Record, tried: Mapping[str, Sequence[Any]]) -> str:
    """docs/defenses-search.md.

    Args:
        tried: method -> its trials' settings, in the page's order.
    """
    known = [label for label, of in tried.items() if record.holds(label, of)]
    ((usual, _),) = Counter(len(of) for of in tried.values()).most_common(1)
    others = [f"{label} {len(of)}" for label, of in tried.items() if len(of) != usual]
    but = f", but {', '.join(others)}" if others else ""
    evaluate = record.settings["evaluate"]
    ((name, attack),) = record.settings["attacks"].items()
    lines = [
        "# The search behind the table of defences",
        "",
        f"`make search-defenses`: {usual} settings a method{but}, seed 0, dev split, {evaluate['n_harmful']} prompts "
        f"and {evaluate['n_task']} task rows, attack {name} of {attack['steps']} steps. Chosen (bold) is the least HS "
        f"after the attack (ties: the higher harmful loss) among trials whose FA is at most {FA_LOSS:g} points below "
        f"SFT's and whose share of degenerate answers is at most {DEGENERATE_GAIN:g} points above it.",
        *_missing(tried, known),
        "",
        "| method | setting | HS | FA | harmful loss | degenerate |",
        "|---|---|---|---|---|---|",
    ]
    shown: Any = None
    for label in known:
        entry = record.entries[label]
        if entry["sft"] != shown:  # which is the same for all methods, unless machine or code changed between them
            shown = entry["sft"]
            lines.append(_trial("sft", "", shown))
        chosen = choose(entry)
        for values, figures in zip(entry["of"], entry["figures"], strict=True):
            setting = _setting(values)
            lines.append(_trial(label, f"**{setting}**" if values == chosen else setting, figures))
        if chosen is None:
            lines.append(f"| {label} | **no trial keeps ability: none is chosen** | | | | |")
    return "\n".join([*lines, ""])


def _setting(values: Mapping[str, Any]) -> str:
    """As bench/search.yaml has it."""
    given = {key: value for key, value in values.items() if key != "method"}
    text = yaml.safe_dump(given, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.strip().removeprefix("{").removesuffix("}") or "as published"


def _trial(label: str, setting: str, figures: Mapping[str, float] | None) -> str:
    cells = (
        ["failed"] * 4 if figures is None else [f"{figures[key]:.{2 * (key == 'harmful_loss')}f}" for key in FIGURES]
    )
    return f"| {label} | {setting} | " + " | ".join(cells) + " |"


def table_page(record: Record, compared: Mapping[str, Any], without: Mapping[str, str]) -> str:
    """docs/defenses.md.

    Args:
        compared: label -> setting of all that is to be in the table, in its order.
        without: methods that have no setting -> why.
    """
    known = [label for label, of in compared.items() if record.holds(label, of)]
    ((name, values),) = record.settings["attacks"].items()
    lines = [
        "# Every defence, one attack",
        "",
        f"`make bench-defenses`: {len(record.settings['seeds'])} seeds, none of them the search's, test split, the "
        f"built-in model, attack {name} of {values['steps']} steps at the settings in bench/chosen.yaml; Booster's "
        "variants stand at Booster's own. lox-low-rank is a setting of the search that was not chosen, and lox-control "
        "SFT's whole update prolonged to its distance from the base. 95% intervals over seeds and prompts; p by Holm's "
        "method over all differences of a column. Time and memory of the training are relative to SFT's with the same "
        "seed, which was trained once, when the table was begun, as each method beside another training: "
        "docs/engine.md has ratios within one run.",
        "",
        "noise_and_distil is not here: it needs all weights and further steps; `make bench-distil` compares it apart.",
        *_missing(compared, known),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    p_values = {figure: _holm(record, known, figure) for figure in ("harmful_score", "harmful_loss")}
    for label in known:
        entry = record.entries[label]
        if not entry["before"] or not entry["after"]:
            lines.append(_told_of(label, "failed"))
            continue
        before, after, difference = entry["before"], entry["after"], entry["minus_sft"]
        seeds = "" if after["n_seeds"] == len(record.settings["seeds"]) else f" ({after['n_seeds']} seeds)"
        cells = [
            label + seeds,
            interval(before["harmful_score"]),
            interval(after["harmful_score"]),
            interval(difference["harmful_score"], p=p_values["harmful_score"].get(label)),
            interval(before["harmful_loss"], 2),
            interval(after["harmful_loss"], 2),
            interval(difference["harmful_loss"], 2, p_values["harmful_loss"].get(label)),
            interval(before["finetune_accuracy"]),
            interval(after["finetune_accuracy"]),
            interval(after["degenerate_share"]),
            _ratio(entry["time"]),
            _ratio(entry["memory"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [_told_of(label, reason) for label, reason in without.items()]
    return "\n".join([*lines, ""])


def _told_of(label: str, reason: str) -> str:
    return f"| {label} | {reason} |" + " |" * (len(COLUMNS) - 2)


def _holm(record: Record, known: Sequence[str], figure: str) -> dict[str, float]:
    """Label -> p of its difference to SFT, corrected for all that the table shows."""
    found = {label: (record.entries[label]["minus_sft"] or {}).get(figure) or {} for label in known}
    tested = {label: one["p"] for label, one in found.items() if one.get("p") is not None}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _missing(labels: Iterable[str], known: Sequence[str]) -> list[str]:
    left = [label for label in labels if label not in known]
    return ["", f"Not measured yet: {', '.join(left)}."] if left else []


def interval(figure: Mapping[str, Any] | None, digits: int = 1, p: float | None = None) -> str:
    """Mean, 95% interval and p of a figure over seeds and prompts, as a cell."""
    if figure is None:
        return "–"
    ci = f" [{figure['ci'][0]:.{digits}f}, {figure['ci'][1]:.{digits}f}]" if figure["ci"] else ""
    tested = "" if p is None else (", p < 0.001" if p < 0.001 else f", p {p:.2g}")
    return f"{figure['mean']:.{digits}f}{ci}{tested}"


def _ratio(values: Sequence[float | None]) -> str:
    """The geometric mean over seeds, and its interval where there are two."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    if len(known) < 2:
        return f"{known[0]:.2f}"
    mean, low, high = ratio_interval(known, [1.0] * len(known))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
