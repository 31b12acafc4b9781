"""The change that an alignment made to a model, matrix by matrix: its length, and how to prolong it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boostershot.core.lora import lora_pairs
from boostershot.core.sharded import like, whole


@dataclass(frozen=True)
class Whole:
    """W - W_base of a tensor that was trained itself. A vector counts as a matrix of one column."""

    weights: Tensor
    base: Tensor

    def squared_norm(self) -> float:
        """|W - W_base|^2 over all entries."""
        return (whole(self.weights).double() - whole(self.base).double()).square().sum().item()

    def add(self, factor: float, rank: int | None) -> None:
        """W += factor * P(W - W_base), P the part of the `rank` largest singular values; all of it when None.

        A tensor of more than two dimensions is a stack of matrices.
        """
        delta = whole(self.weights) - whole(self.base)
        if rank is not None and delta.dim() > 1:
            u, s, v = torch.linalg.svd(delta, full_matrices=False)
            delta = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
        with torch.no_grad():
            self.weights.add_(like(delta, self.weights), alpha=factor)


@dataclass(frozen=True)
class Adapter:
    """scale * B A of a LoRA adapter on one module; its base is the module without it."""

    a: Tensor
    b: Tensor
    scale: float

    def squared_norm(self) -> float:
        """|scale * B A|^2, without the product itself."""
        a, b = whole(self.a).double(), whole(self.b).double()
        return self.scale**2 * ((b.T @ b) * (a @ a.T)).sum().item()

    def add(self, factor: float, rank: int | None) -> None:
        """B += factor * U U' B, U the `rank` first left singular vectors of B A: the adapter keeps its rank.

        U U' B A is the part of B A of its `rank` largest singular values.
        """
        a, b = whole(self.a).double(), whole(self.b).double()
        delta = b
        if rank is not None and rank < len(a):
            q, r = torch.linalg.qr(b)
            u = q @ torch.linalg.svd(r @ a, full_matrices=False).U[:, :rank]
            delta = u @ (u.T @ b)
        with torch.no_grad():
            self.b.add_(like(delta.to(self.b.dtype), self.b), alpha=factor)


def updates(model: nn.Module, base: Mapping[str, Tensor]) -> Iterator[Whole | Adapter]:
    """The trainable part of a model, matrix by matrix.

    Args:
        model: an aligned model, with or without a LoRA adapter attached.
        base: the trainable weights before the alignment, by parameter name; those of an adapter are not read.

    Raises:
        ValueError: an adapter that is not W + scale * B A with two matrices (DoRA, convolutions).
    """
    adapters = set[int]()
    for name, module in model.named_modules():
        for a, b, scale in lora_pairs(name, module):
            adapters |= {id(a), id(b)}
            if a.requires_grad or b.requires_grad:
                yield Adapter(a, b, scale)
    for name, param in model.named_parameters():
        if param.requires_grad and id(param) not in adapters:
            yield Whole(param, base[name].to(param.device))


def distance_from_base(model: nn.Module, base: Mapping[str, Tensor]) -> float:
    """|W - W_base| over all trained matrices together; arguments and errors as for `updates`."""
    return math.sqrt(math.fsum(update.squared_norm() for update in updates(model, base)))


def bring_to_distance(model: nn.Module, base: Mapping[str, Tensor], wanted: float) -> None:
    """Scale the change that an alignment made, in place, so that |W - W_base| is `wanted`.

    Two defences that are compared at equal distance from the base differ by where they went and not by how far.

    Raises:
        ValueError: the model is at its base, or `wanted` is negative or not finite; else as for `updates`.
    """
    if not (math.isfinite(wanted) and wanted >= 0):
        raise ValueError(f"the distance is {wanted}; expected a finite number, 0 or more")
    present = distance_from_base(model, base)
    if present == 0:
        raise ValueError("the model has not moved from its base; there is no direction to scale")
    for update in updates(model, base):
        update.add(wanted / present - 1, None)
