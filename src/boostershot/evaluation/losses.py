"""The loss of an answer given its prompt: continuous, cheap, and less noisy than a judged score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from boostershot.core.losses import lay_out, token_losses
from boostershot.data.format import TokenizedRow, collate


@torch.no_grad()
def row_losses(
    model: Any,
    rows: Sequence[TokenizedRow],
    pad_id: int,
    *,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda n: None,
) -> list[float]:
    """-log p of each row's answer given its prompt: mean over its tokens, nats per token.

    Rows that start alike are read together, so that a shared prompt is read once.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: rows[i].input_ids)
    losses = [0.0] * len(rows)
    try:
        for start in range(0, len(order), batch_size):
            picked = order[start : start + batch_size]
            layout = lay_out(model, collate([rows[i] for i in picked], pad_id).to(model.device))
            values = token_losses(model, layout).double()
            sums = torch.zeros(len(picked), dtype=torch.float64, device=values.device)
            sums.index_add_(0, layout.rows, values)
            counts = torch.bincount(layout.rows, minlength=len(picked))
            for i, value in zip(picked, (sums / counts).tolist(), strict=True):
                losses[i] = value
            advance(len(picked))
    finally:
        model.train(was_training)
    return losses
