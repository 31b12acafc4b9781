"""What an attacker who knows that there is a defence does otherwise in a phase of the training. Our own moves.

They follow our reading of what immunisation does (it flattens the harmful loss around the released weights, or moves
them to where its gradient misleads); they are nobody's published attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a recipe's attacks are read without torch
    import torch
    from torch import Tensor

    from boostershot.core.batch import Rows
    from boostershot.core.oracle import Oracle
    from boostershot.core.step import Step
    from boostershot.core.vector import Vector


@dataclass(frozen=True)
class Perturbed:
    """Several gradient steps on each batch, from perturbed points; the optimiser gets the mean of their gradients.

    From u_0 = w, with r = radius * |w|, unit noise e_k and h the loss of the batch, for k = 1 ... gradients:
    g_k = grad h(u_{k-1} + r e_k) and u_k = u_{k-1} + r e_k - r g_k / |g_k|.
    It sees past a region that was flattened around w, and past a gradient that misleads at w alone.

    Args:
        gradients: how many steps, each of which costs a pass.
        radius: the length of the noise and of a step, relative to the trained weights together.

    Raises:
        ValueError: gradients is below 1, or radius is not a number above 0.
    """

    gradients: int = 4
    radius: float = 0.01

    def __post_init__(self) -> None:
        if self.gradients < 1:
            raise ValueError(f"gradients is {self.gradients}; expected 1 or more")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"radius is {self.radius}; expected a finite number above 0")

    def gradient(self, oracle: Oracle, rows: Rows) -> Step:
        """The mean of the gradients, and of the losses at their points; the weights come back bit for bit."""
        length, draws = self.radius * _length(oracle.params), oracle.generator("perturbed")
        total: Step | None = None
        with oracle.away():
            for _ in range(self.gradients):
                oracle.shift(_unit_noise(oracle.params, draws), by=length)
                h = oracle.gradient(rows)
                oracle.shift(h.gradient.unit(), by=-length)
                total = h if total is None else total + h
        assert total is not None
        return (1 / self.gradients) * total


@dataclass(frozen=True)
class Moves:
    """How the steps of a phase differ from the attack's plain ones.

    Args:
        lr_factor: times the attack's learning rate.
        momentum: in place of the attack's.
        constant: neither the attack's schedule nor its warm-up.
        noise: the length of one random step before the first, relative to the trained weights together.
        perturbed: where a batch's gradient is taken, if not at the weights.
        opposed: how long the gradient of the defence's own term is, against that of the loss that it is taken from.
    """

    lr_factor: float = 1.0
    momentum: float | None = None
    constant: bool = False
    noise: float = 0.0
    perturbed: Perturbed | None = None
    opposed: float = 0.0


PLAIN_MOVES = Moves()


def shake(params: Sequence[Tensor], size: float, seed: int) -> None:
    """params += size * |params| * unit noise, in place, over all of them together."""
    import torch

    length = size * _length(params)
    noise = _unit_noise(params, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch._foreach_add_([param.data for param in params], list(noise.parts), alpha=length * noise.scale)


def opposing(h: Step, term: Step, share: float) -> Step:
    """h with a defence's term taken from it, so scaled that its gradient is `share` times as long as h's.

    A share below 1 still descends h, whatever the weights within the term. The loss stays h's. Both are used up.
    """
    from boostershot.core.step import Step

    loss, value, length = h.loss, term.loss, h.gradient.norm()
    against = term.gradient.norm()
    factor = share * length / against if against > 0 else 0.0
    both = h + (-factor) * term
    return Step(loss, both.gradient, {**both.metrics, "opposed_term": value})


def _length(params: Sequence[Tensor]) -> float:
    """The L2 norm of all of them together."""
    from boostershot.core.vector import Vector

    return Vector(tuple(param.detach() for param in params)).norm()


def _unit_noise(params: Sequence[Tensor], generator: torch.Generator) -> Vector:
    """A random direction in the parameters' space, of norm 1."""
    import torch

    from boostershot.core.vector import Vector

    parts = (torch.randn(param.shape, generator=generator, dtype=param.dtype) for param in params)
    return Vector(tuple(part.to(param.device) for part, param in zip(parts, params, strict=True))).unit()
