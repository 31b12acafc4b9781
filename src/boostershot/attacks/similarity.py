"""How alike the gradients of benign rows are to those of harmful ones, row by row and exactly."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from boostershot.core.oracle import Oracle
from boostershot.core.temporarily import keeping_modes
from boostershot.core.vector import Vector
from boostershot.data.format import TokenizedRow, collate


def gradient_similarities(
    model: nn.Module,
    harmful: Sequence[TokenizedRow],
    benign: Sequence[TokenizedRow],
    pad_id: int,
) -> list[float]:
    """The cosine of each benign row's gradient with the mean of the harmful rows' unit gradients.

    Gradients are those of the row's mean loss in the weights that are trainable, at the present weights, dropout off.
    No gradient is kept but the mean, so nothing has to be projected. Costs a forward-backward pass a row.

    Args:
        model: what will be attacked, its trainable weights those that the attack trains.
        harmful, benign: the rows, cut to the tokens that count.
        pad_id: any token; a row alone has no padding.

    Raises:
        ValueError: nothing is trainable, or in half precision.
        NonFiniteError: a row's loss or gradient is not finite; names it.
    """
    oracle = Oracle(model)

    def gradient(row: TokenizedRow) -> Vector:
        return oracle.gradient(collate([row], pad_id)).gradient

    with keeping_modes(model):
        model.eval()
        anchor = gradient(harmful[0]).unit()
        for row in harmful[1:]:
            anchor = anchor.plus(gradient(row).unit())
        anchor = anchor.unit()
        return [anchor.dot(gradient(row).unit()) for row in benign]
