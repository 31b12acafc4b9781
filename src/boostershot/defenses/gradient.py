"""One step of a defence outside any trainer: for checks, and for users with a training loop of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses.defense import Defense


@dataclass(frozen=True)
class GradientStep:
    """The objective's loss, its gradient by parameter name (trainable ones only), and the metrics of the step.

    `untouched` names parameters that the step leaves out (T-Vaccine's other layers): give the optimiser None for them.
    """

    loss: float
    gradient: dict[str, Tensor]
    metrics: dict[str, float]
    untouched: frozenset[str] = frozenset()


def defense_gradient(
    model: nn.Module,
    defense: Defense,
    *,
    align: Mapping[str, Tensor],
    harmful: Mapping[str, Tensor] | None = None,
    paired: Mapping[str, Tensor] | None = None,
    general: Mapping[str, Tensor] | None = None,
    dev: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    step: int = 0,
    state: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
    micro_batch_size: int | None = None,
    tokens_per_micro_batch: int | None = None,
) -> GradientStep:
    """The loss and gradient that `defense` would hand to the optimiser, before clipping.

    Args:
        model: a causal language model with float32 or float64 trainable parameters.
        defense: such as `Booster(lam=20, alpha=0.05)`.
        align, harmful, paired, general, dev: batches `dict(input_ids, attention_mask, labels)` of shape [rows, time];
            labels are -100 where unsupervised; padded on either side. Row i of `paired` is the harmful answer to the
            prompt of `align`'s row i. A defence that reads several harmful batches (`defense.reads()`) cuts
            `harmful` into so many.
        seed, step: all that random choices depend on; dropout masks are the same in all passes of the step.
        state, tensors: what the defence keeps between steps (layer shares, a schedule's factor, the weights at the
            start): give the same two dictionaries, empty at first, and the next `step`, at every step of a loop.
        micro_batch_size: rows in one forward pass; the result does not depend on it.
        tokens_per_micro_batch: tokens in one, unless a row alone has more; nor on this.

    Returns:
        The step. Weights, `.grad`, hooks, RNG state and train/eval mode are as before, bit for bit.

    Raises:
        ValueError: a batch that the defence needs is missing, malformed or without a supervised token, a trainable
            parameter is half precision, or one of the two sizes is below 1.
        NonFiniteError: a loss or gradient is not finite.
    """
    given = {"align": align, "harmful": harmful, "paired": paired, "general": general, "dev": dev}
    rows = {role: Rows.of(batch).named(role) for role, batch in given.items() if batch is not None}
    oracle = Oracle(
        model,
        micro_batch_size=micro_batch_size,
        tokens_per_micro_batch=tokens_per_micro_batch,
        seed=seed,
        step=step,
        state=state if state is not None else {},
        tensors=tensors if tensors is not None else {},
    )
    found = defense.step(oracle, Batch(**rows, parts=defense.reads()))
    gradient = dict(zip(oracle.names, found.gradient.tensors(), strict=True))
    return GradientStep(found.loss, gradient, found.metrics, oracle.untouched)
