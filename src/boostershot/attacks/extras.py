"""The gradient of an attacker's step where it is more than that of its batch: the anchor, and the moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from boostershot.attacks.anchor import Anchor, rows_of_step
from boostershot.attacks.moves import PLAIN_MOVES, Moves, opposing
from boostershot.core.batch import Rows
from boostershot.core.oracle import START, Oracle
from boostershot.core.step import Step
from boostershot.data.format import TokenizedRow, collate

Term = Callable[[Oracle], Step]  # a defence's own term at the oracle's weights, in the attacker's rows


@dataclass(frozen=True)
class Extras:
    """What the steps of one phase have beyond the plain loss.

    Args:
        moves: of the phase.
        term: what `moves.opposed` opposes; None where there is nothing.
        anchor: the term on general rows, if any.
        general: the anchor's rows.
        pad_id: of the tokenizer.
        batch: rows of a step.
        released: the trained parameters as the attacker found them, by name.
        first_step: the optimiser steps before this phase, so that no phase repeats another's random choices.
    """

    moves: Moves = PLAIN_MOVES
    term: Term | None = None
    anchor: Anchor | None = None
    general: Sequence[TokenizedRow] = ()
    pad_id: int = 0
    batch: int = 1
    released: Mapping[str, Tensor] = field(default_factory=dict)
    first_step: int = 0

    @property
    def none(self) -> bool:
        """Is the step the plain one?"""
        return self.anchor is None and self.moves.perturbed is None and not self._opposes

    @property
    def _opposes(self) -> bool:
        return self.moves.opposed > 0 and self.term is not None

    def step(self, oracle: Oracle, rows: Rows) -> Step:
        """The loss of the batch at the moves' points, less the opposed term, plus the anchor's."""
        oracle.tensors.update({START + name: weights for name, weights in self.released.items()})
        perturbed = self.moves.perturbed
        total = perturbed.gradient(oracle, rows) if perturbed else oracle.gradient(rows)
        total = total.log(batch_loss=total.loss)
        if self._opposes and self.term is not None:
            total = opposing(total, self.term(oracle), self.moves.opposed)
        if self.anchor is not None:
            picked = rows_of_step(self.general, self.batch, oracle.step, oracle.seed)
            total = total + self.anchor.term(oracle, collate(picked, self.pad_id), self.released)
        return total
