"""Algebra on gradients: one tensor for each trainable parameter, in order. Knows no model.

Tensors may be sharded over processes: arithmetic is on each one's own part, norms and products are of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from boostershot.core.sharded import is_sharded, local, summed

_PIECE = 2**20  # weights of which a float64 copy is made at a time


@dataclass(frozen=True)
class Vector:
    """`scale` times `parts`; the scale is kept apart so that `unit` copies nothing.

    `plus` works in place on its `parts`, and `times` and `unit` share them: whoever adds gives the vector up.
    """

    parts: tuple[Tensor, ...]
    scale: float = 1.0
    _known: dict[str, float] = field(default_factory=dict, repr=False, compare=False)  # the norm of the parts

    def norm(self) -> float:
        """The L2 norm over all parameters jointly; measured once, and known to all that share the parts."""
        if not self.parts:
            return 0.0
        if "norm" not in self._known:
            norms = torch.stack([norm.to(torch.float64) for norm in torch._foreach_norm(_locals(self.parts))])
            if is_sharded(self.parts):
                self._known["norm"] = math.sqrt(summed(self.parts, norms.square()))
            else:
                self._known["norm"] = torch.linalg.vector_norm(norms).item()
        return abs(self.scale) * self._known["norm"]

    def unit(self) -> Vector:
        """The vector of norm 1 in this direction; a zero vector stays zero."""
        norm = self.norm()
        return replace(self, scale=self.scale / norm if norm > 0 else 0.0)

    def times(self, factor: float) -> Vector:
        """`factor * self`, without touching the tensors."""
        return replace(self, scale=factor * self.scale)

    def plus(self, other: Vector) -> Vector:
        """`self + other`, computed in the buffers of `self`."""
        mine, theirs = _locals(self.parts), _locals(other.parts)
        with torch.no_grad():
            if self.scale != 1.0:
                torch._foreach_mul_(mine, self.scale)
            torch._foreach_add_(mine, theirs, alpha=other.scale)
        return Vector(self.parts)

    def copy(self) -> Vector:
        """The same vector in buffers of its own."""
        return Vector(tuple(part.clone() for part in self.parts), self.scale)

    def dot(self, other: Vector) -> float:
        """The inner product over all parameters."""
        products = []
        for mine, theirs in zip(_locals(self.parts), _locals(other.parts), strict=True):
            pieces = zip(mine.flatten().split(_PIECE), theirs.flatten().split(_PIECE), strict=True)
            products.append(sum(a.to(torch.float64, copy=True).mul_(b).sum().item() for a, b in pieces))
        if is_sharded(self.parts):
            values = torch.tensor(products, dtype=torch.float64, device=self.parts[0].device)
            return self.scale * other.scale * summed(self.parts, values)
        return self.scale * other.scale * sum(products)

    def add_to(self, tensors: Sequence[Tensor], by: float) -> None:
        """`tensors += by * self`, in place."""
        with torch.no_grad():
            torch._foreach_add_(_locals(tensors), _locals(self.parts), alpha=by * self.scale)

    def tensors(self) -> tuple[Tensor, ...]:
        """The parts with the scale worked in; copies where the scale is not 1, as it is in a sum."""
        if self.scale == 1.0:
            return self.parts
        with torch.no_grad():
            return tuple(torch._foreach_mul(list(self.parts), self.scale))


@contextmanager
def excursion(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Let the body move the parameters; every bit comes back on the way out, error or not.

    A copy, which the body gets, is kept because `w + d - d` is not `w` in floating point.
    """
    home = [param.detach().clone() for param in params]
    try:
        yield home
    finally:
        with torch.no_grad():
            torch._foreach_copy_(_locals([param.data for param in params]), _locals(home))


def _locals(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [local(tensor) for tensor in tensors]
