"""docs/engine.md from docs/engine.json: tables and charts, or that a section is not measured yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from engine.options import CHECKPOINTED, COMPILED, DEFAULT, HALF
from engine.plot import svg
from engine.timing import Ratio
from engine.whole import PARTS, WHO, composed

Section = Mapping[str, Any]
"""`machine`, `ratios` and `found`, as JSON data."""

HEAD = """# Speed and memory of the engine

Written by `make bench` from `docs/engine.json`; `make bench SECTIONS="steps growth"` measures some sections anew, and
`make bench-check` holds a quick run against what is stored. Every figure is a ratio within one run: the sides take
turns, repeat by repeat and on the same rows, so that what the machine does meanwhile touches them alike. A ratio is the
median of the repeats' own ratios, with its quartiles and the bootstrap's 95% interval of the median. The model is the
built-in one in float32 with the quickstart's adapter, its batch of 8 rows and its own rows, unless a section says
otherwise. Optimiser, clipping and logging are the stock trainer's on both sides and are not timed. Nothing here was run
for real on a GPU.
"""

INTRODUCTIONS = {
    "steps": """## A Booster step and an SFT step

On the same tokens: the harmful rows are the aligned ones here. Three passes are the method's arithmetic.""",
    "reference": """## Against a plain reference trainer

`bench/reference.py`, from the published algorithm: rows padded to the longest, logits of all positions, loops over
tensors, gradients cloned. A test holds its gradient against ours. On the quickstart's rows.""",
    "whole": """## The whole quickstart

Not one whole run: what a step, an answer and a written answer take, times how often the quickstart does each, repeat by
repeat. The reference is the plain trainer, trl's own SFTTrainer as attack (padded rows) and `model.generate` for one
prompt at a time. What both do alike (judging, losses, loading) is left out.""",
    "peak": """## Of the machine's arithmetic

Products of large float32 matrices in turn with SFT steps; the step's operations are counted by formula on its distinct
tokens (`engine/machine.py`; a test holds the formula against torch's counter).""",
    "variants": """## Other steps than the exact one

Over SFT's step on the same tokens; where a step's work differs from step to step, the mean over its period.""",
    "options": """## Options

A Booster step under each option alone. bf16 is autocast with the frozen weights in bfloat16; torch.compile compiles the
decoder layers, and the compilation itself is not timed. Bytes are those of all tensors that live at the peak of the
step, the weights left out. *Gradient off by* is |difference| / |gradient| against the default, in the first step of an
alignment: Booster's bracket is the difference of two nearly equal gradients, so what rounds them off counts for more
than in an SFT step.""",
    "growth": """## How a step grows

A Booster step of a small random Llama (4 layers of width 256, 8 rows of 32 tokens, LoRA of rank 16, 4,096 tokens in
the vocabulary), one of these at a time changed. Rows share no prefix, which is the worst case for a token trie. The
exponent is of a power law, fitted to the upper half of the range by least squares of the logarithms.""",
}


def page(sections: Mapping[str, Section]) -> str:
    """All of docs/engine.md."""
    parts = [HEAD]
    for name, introduction in INTRODUCTIONS.items():
        parts.append(introduction)
        section = sections.get(name)
        parts.append(
            _told(name, section) if section else f"Not measured yet: `make bench SECTIONS={name}` fills this in."
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write_charts(sections: Mapping[str, Section], folder: Path) -> None:
    """An SVG for each axis of the growth."""
    for axis, found in sections.get("growth", {"found": {}})["found"].items():
        (folder / _chart(axis)).write_text(svg(axis, found["points"], found["exponents"]), encoding="utf-8")


def read_ratio(values: Mapping[str, Any]) -> Ratio:
    """As `Ratio.to_dict` wrote it."""
    return Ratio(**{**values, "quartiles": tuple(values["quartiles"]), "interval": tuple(values["interval"])})


def _told(name: str, section: Section) -> str:
    machine = section["machine"]
    under = (
        f"{machine['date']}, {machine['threads']} threads of {machine['processors']} processors "
        f"({machine['processor']}), torch {machine['torch']}, {machine['repeats']} repeats, "
        f"load average {machine['load_average']:.1f}."
    )
    parts = [under, _ratios(section["ratios"])] if section["ratios"] else [under]
    more: Callable[[Any], str] | None = FURTHER.get(name)
    return "\n\n".join([*parts, *([more(section["found"])] if more else [])])


def _ratios(ratios: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| ratio | median | quartiles | 95% of the median | target |", "|---|---:|---|---|---|"]
    for label, values in ratios.items():
        one = read_ratio(values)
        sign = "≤" if one.better == "lower" else "≥"
        target = "" if one.target is None else f"{sign} {one.target:g}: {'met' if one.met else 'missed'}"
        spreads = (f"{low:.2f} to {high:.2f}" for low, high in (one.quartiles, one.interval))
        lines.append(f"| {label} | {one.median:.2f} | {' | '.join(spreads)} | {target} |")
    return "\n".join(lines)


def _steps(found: Mapping[str, Any]) -> str:
    return f"{found['outside']:.1%} of a Booster step is outside its passes (median)."


def _reference(found: Mapping[str, Any]) -> str:
    return (
        f"Of arithmetic, counted as below, the reference's step is {found['arithmetic']:.2f} times ours: padding, "
        "repeated prefixes and the projection of all positions. What a ratio has beyond or below that is how well "
        "either fills the processor."
    )


def _peak(found: Mapping[str, Any]) -> str:
    return (
        f"The products of {found['size']} x {found['size']} matrices reach {found['peak_gflops']:.0f} GFLOP/s; a step "
        f"on the first batch is {found['step_gflop']:.0f} GFLOP."
    )


def _whole(found: Mapping[str, Any]) -> str:
    lines = ["| part | times | ours, s | reference, s |", "|---|---:|---:|---:|"]
    for part in PARTS:
        each = " | ".join(f"{median(found['seconds'][part][who]):.3f}" for who in WHO)
        lines.append(f"| {part} | {found['counts'][part]:,} | {each} |")
    return f"Composed of {composed(found)}.\n\n" + "\n".join(lines)


def _options(found: Mapping[str, Any]) -> str:
    lines = ["| option | seconds | peak MiB | memory / default's | gradient off by |", "|---|---:|---:|---:|---:|"]
    default = found["bytes"][DEFAULT]
    for name in (DEFAULT, CHECKPOINTED, HALF, COMPILED):
        size = found["bytes"][name]
        memory = "not counted |" if size is None else f"{size / 2**20:.0f} | {size / default:.2f}"
        lines.append(f"| {name} | {found['seconds'][name]:.2f} | {memory} | {found['differences'][name]:.1e} |")
    return "\n".join(lines)


def _growth(found: Mapping[str, Any]) -> str:
    parts = []
    for axis, one in found.items():
        rows = "\n".join(f"| {p['at']:,} | {p['seconds']:.3f} | {p['bytes'] / 2**20:.1f} |" for p in one["points"])
        powers = one["exponents"]
        parts.append(
            f"### {axis}\n\nTime grows with the power {powers['seconds']:.2f}, memory with {powers['bytes']:.2f}.\n\n"
            f"![time and memory over {axis}]({_chart(axis)})\n\n"
            f"| {axis} | seconds | peak MiB |\n|---:|---:|---:|\n{rows}"
        )
    return "\n\n".join(parts)


FURTHER: dict[str, Callable[[Any], str]] = {
    "steps": _steps,
    "reference": _reference,
    "peak": _peak,
    "whole": _whole,
    "options": _options,
    "growth": _growth,
}


def _chart(axis: str) -> str:
    return f"engine-{axis.replace(' ', '-')}.svg"
