"""What every defence is: hyper-parameters, a description, a declared cost, and one method."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import About


@dataclass(frozen=True)
class Cost:
    """What one step costs.

    Args:
        own: forward-backward passes over a batch; a forward alone is a third. An average, where steps differ.
        shared: roles whose plain gradient at w is read, and how often: each is computed once.
        memory: tensors of the trainable weights' size, at the peak, beyond the gradient that any training has.
        activations: further memory in words, for the methods that keep activations.
        kept: how many of the tensors stay from step to step.
        once: passes of what a step measures at w alone, however often it is taken at other weights besides.
    """

    own: float = 0
    shared: Mapping[str, int] = field(default_factory=dict)
    memory: float = 0
    activations: str = ""
    kept: float = 0
    once: float = 0

    @property
    def passes(self) -> float:
        """All passes of the step."""
        return self.own + len(self.shared) + self.once

    @property
    def passes_away(self) -> float:
        """All passes of the same step at other weights, after w: nothing is shared there, or measured again."""
        return self.own + sum(self.shared.values())

    def then(self, other: Cost) -> Cost:
        """The cost of two terms of a sum, computed one after the other.

        The first one's gradient waits for the second; a gradient that both read is copied for the second.
        """
        words = "; ".join(dict.fromkeys(text for text in (self.activations, other.activations) if text))
        first = self.memory + len(self.shared.keys() & other.shared.keys()) + other.kept
        return Cost(
            self.own + other.own,
            Counter(self.shared) + Counter(other.shared),
            max(first, 1 + self.kept + other.memory),
            words,
            self.kept + other.kept,
            self.once + other.once,
        )


class Defense(ABC):
    """A frozen dataclass of hyper-parameters whose `step` mutates nothing that it does not restore bit for bit."""

    about: ClassVar[About]
    align_answers: ClassVar[Literal["chosen", "unrelated"]] = "chosen"
    """What the `align` rows answer: safely, or fluently beside the point."""

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """What one step costs."""

    @abstractmethod
    def reads(self) -> dict[str, int]:
        """The kinds of rows that a step reads (align, harmful, paired, general, dev), and how many batches of each."""

    @abstractmethod
    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """The whole objective: its loss, its gradient and what to log."""

    @property
    def passes(self) -> float:
        """Forward-backward passes over a batch in one step."""
        return self.cost.passes

    def check_model(self, model: nn.Module) -> None:
        """Raises ValueError if the model lacks a part that a step, or one of the defences within, works on."""
        for part in parts(self):
            part.check_model(model)

    def answers(self) -> Literal["chosen", "unrelated"]:
        """What the `align` rows of a step answer: as the defence within wants them, if there is one."""
        align = getattr(self, "align", None)
        return align.answers() if isinstance(align, Defense) else self.align_answers

    @property
    def reads_layers(self) -> bool:
        """Does it read or change hidden states, beside taking gradients of losses? Then all layers must run."""
        return False

    @property
    def keeps(self) -> str | None:
        """What it keeps of w from step to step, which would be wrong where its step is taken elsewhere: "has ..."."""
        return None

    def exact(self) -> Defense:
        """The same objective, computed without the approximations of this defence and of those within."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}  # type: ignore[arg-type]
        return dataclasses.replace(self, **{name: _exactly(value) for name, value in fields.items()})  # type: ignore[type-var]

    def needs(self) -> frozenset[str]:
        """The kinds of rows that must be there: those that a step reads, and those that its rows are made of."""
        return frozenset(self.reads()) | ({"general"} if self.answers() == "unrelated" else set())


class Regularizer(Defense):
    """A defence whose objective is that of another, `align`, plus a term of its own: they nest into any sum."""

    align: Defense

    @property
    @abstractmethod
    def active(self) -> bool:
        """Does the term count? Without it, the step is `align`'s."""

    def due(self, step: int) -> bool:
        """Does the term count in this optimiser step?"""
        return self.active

    @property
    @abstractmethod
    def term_cost(self) -> Cost:
        """What the term costs, on average over steps."""

    @abstractmethod
    def term_reads(self) -> dict[str, int]:
        """The rows that the term reads."""

    @abstractmethod
    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """The term, weighted, of a step in which it is due."""

    @property
    def cost(self) -> Cost:
        """That of the term and of `align`."""
        return self.term_cost.then(self.align.cost) if self.active else self.align.cost

    def reads(self) -> dict[str, int]:
        """What the term reads, and what `align` does."""
        return most(self.align.reads(), self.term_reads() if self.active else {})

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """`align` plus the term, which comes first: `align` then runs beside one gradient."""
        if not self.due(oracle.step):
            return self.align.step(oracle, batch)
        with oracle.sharing(self.cost.shared):
            term = self.term(oracle, batch)
            return self.align.step(oracle, batch) + term


def parts(defense: Defense) -> list[Defense]:
    """The defences that a defence is directly composed of."""
    values = [getattr(defense, each.name) for each in dataclasses.fields(defense)]  # type: ignore[arg-type]
    flat = [one for value in values for one in (value.values() if isinstance(value, Mapping) else [value])]
    return [one for one in flat if isinstance(one, Defense)]


def within(defense: Defense) -> list[Defense]:
    """The defences that a defence is composed of, at any depth."""
    return [one for part in parts(defense) for one in (part, *within(part))]


def _exactly(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {label: _exactly(one) for label, one in value.items()}
    return value.exact() if isinstance(value, Defense) else value


def reader_of_layers(defense: Defense) -> str | None:
    """The name of the first defence, of this one and those within, that reads all layers."""
    return next((type(one).__name__.lower() for one in (defense, *within(defense)) if one.reads_layers), None)


def most(*reads: Mapping[str, int]) -> dict[str, int]:
    """For each role, the most batches that one of several readers reads."""
    roles = sorted({role for each in reads for role in each})
    return {role: max(each.get(role, 0) for each in reads) for role in roles}


def check_at_home(method: str, align: Defense) -> None:
    """Raises ValueError if `align`, whose step the method takes at other weights too, keeps something of w."""
    for one in (align, *within(align)):
        if one.keeps is not None:
            raise ValueError(f"{method}: align {one.keeps}, and {method} takes its step at other weights too")


def check(method: str, **values: float | None) -> None:
    """Raises ValueError for a value that is negative or not finite; None is a value not given."""
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{method}: {name} is {value}; expected a finite number, 0 or more")


def check_count(method: str, **values: int) -> None:
    """Raises ValueError for a count below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{method}: {name} is {value}; expected 1 or more")
