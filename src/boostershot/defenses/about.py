"""What a method tells of itself: `boostershot methods` and the pages in docs/methods are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HyperParameter:
    """What a hyper-parameter means, and what happens when it is set badly."""

    meaning: str
    failure: str


@dataclass(frozen=True)
class About:
    """A method's own description.

    Args:
        title: its name in the literature.
        source: paper, equation or algorithm.
        equation: the objective, in the notation of `NOTATION`.
        idea: why it should help, in a sentence or two.
        follows: which published description is followed, and where a choice had to be made.
        hyper_parameters: by field name, all of them.
        example: hyper-parameters of a sensible setting, as a recipe writes them; costs are told of it.
        notes: what a reader should know before trusting or tuning it.
    """

    title: str
    source: str
    equation: str
    idea: str
    follows: str
    hyper_parameters: dict[str, HyperParameter] = field(default_factory=dict)
    notes: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)


NOTATION = (
    "f: mean loss of safe answers to harmful prompts; h: of harmful answers to them; b: of benign text; w: the "
    "trainable weights; g = grad h(w); unit(x) = x / |x| over all trainable weights jointly."
)

ALIGN = HyperParameter(
    "the defence whose objective takes the place of f, such as {method: vaccine, rho: 2}", "none of its own"
)
