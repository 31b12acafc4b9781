"""Stages after an alignment: methods that change what any defence has aligned."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.defense import Cost, Defense, within


@dataclass(frozen=True)
class FurtherTraining:
    """A training that finishes a stage: its objective, how many steps, at which learning rate."""

    objective: Defense
    steps: int
    lr: float


class Finishing(Defense):
    """A stage that follows the alignment of another defence, `align`, whose step, cost and reads are its own till then.

    Stages nest: the inner one finishes first. No other defence can have one for its `align`.
    """

    align: Defense

    @property
    def reads_layers(self) -> bool:
        """What follows the alignment is of the whole model."""
        return True

    @property
    def cost(self) -> Cost:
        """That of `align`."""
        return self.align.cost

    def reads(self) -> dict[str, int]:
        """What `align` reads."""
        return self.align.reads()

    def step(self, oracle: Oracle, batch: Batch) -> Step:
        """The step of `align`."""
        return self.align.step(oracle, batch)

    def needs(self) -> frozenset[str]:
        """What `align` needs, and what the stage itself reads."""
        return self.align.needs() | self.finish_reads().keys()

    def finish_reads(self) -> dict[str, int]:
        """The kinds of rows that the stage's own training reads, and how many batches of each."""
        return {}

    @property
    def finish_steps(self) -> int:
        """How many steps the stage's own training takes."""
        return 0

    @property
    def finish_cost(self) -> Cost:
        """What one of them costs."""
        return Cost()

    @abstractmethod
    def finish(self, oracle: Oracle) -> FurtherTraining | None:
        """Change the aligned weights in place; the training that follows, if any.

        Called again, with the same aligned weights, where a stop is resumed.

        Args:
            oracle: with the weights that `align` left, and in `tensors`, under `START` and a parameter's name, those
                of all trainable parameters before the alignment.
        """


def stages_of(defense: Defense) -> tuple[Defense, tuple[Finishing, ...]]:
    """The defence of the alignment itself, and the stages that follow it, in order.

    Raises:
        ValueError: a stage is within a defence that it cannot follow, such as Booster(align=LoX(...)).
    """
    alignment, stages = defense, list[Finishing]()
    while isinstance(alignment, Finishing):
        stages.insert(0, alignment)
        alignment = alignment.align
    for inner in within(alignment):
        if isinstance(inner, Finishing):
            name = type(inner).__name__
            raise ValueError(
                f"{name} follows an alignment and cannot be a part of {type(alignment).__name__}; expected it outside"
            )
    return alignment, tuple(stages)


def trainings_of(defense: Defense, steps: int) -> list[tuple[int, Cost]]:
    """Steps, and the cost of one, of an alignment of so many steps and of each training of the stages after it."""
    alignment, stages = stages_of(defense)
    after = [(stage.finish_steps, stage.finish_cost) for stage in stages if stage.finish_steps]
    return [(steps, alignment.cost), *after]


def heaviest_of(defense: Defense) -> Cost:
    """The cost of its step that takes the most memory, in the alignment or in a stage after it."""
    return max((cost for _, cost in trainings_of(defense, 1)), key=lambda cost: cost.memory + bool(cost.activations))
