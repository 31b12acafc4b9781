"""A simulated attacker: real optimiser steps down the harmful loss, away from the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Step
from boostershot.core.vector import Vector

Optimizer = Literal["adamw", "sgd", "normalized_sgd"]


@dataclass(frozen=True)
class Attacker:
    """How the attacker steps: AdamW or SGD at a learning rate, or steps of one length (normalised SGD).

    No weight decay and no momentum: the harmful gradient alone moves the weights.

    Args:
        optimizer: adamw, sgd or normalized_sgd.
        lr: the learning rate; for normalized_sgd, the length of a step over all weights that the attacker trains.
        names: the parameters that the attacker trains; all trainable ones if not given.
    """

    optimizer: Optimizer
    lr: float
    names: frozenset[str] | None = None

    def trains(self, name: str) -> bool:
        """Is this parameter the attacker's to train?"""
        return self.names is None or name in self.names

    def weights(self, oracle: Oracle) -> int:
        """How many scalars the attacker trains."""
        return sum(p.numel() for name, p in zip(oracle.names, oracle.params, strict=True) if self.trains(name))

    @contextmanager
    def walk(self, oracle: Oracle, batches: Sequence[Rows], first: Step | None = None) -> Iterator[Iterator[float]]:
        """Within, each item of the iterator is one step taken, and the harmful loss before it.

        After, the weights are what they were, bit for bit, and so is the parameters' own `.grad` between steps.

        Args:
            oracle: at the weights from which the attacker starts.
            batches: the harmful rows of each step.
            first: the gradient of the first batch, where it is known; it is used up.
        """
        with oracle.away():
            steps = self._steps(oracle, batches, first)
            del first  # so that its gradient lives no longer than the first step
            yield steps

    def _steps(self, oracle: Oracle, batches: Sequence[Rows], first: Step | None) -> Iterator[float]:
        own = [i for i, name in enumerate(oracle.names) if self.trains(name)]
        params = [oracle.params[i] for i in own]
        optimizer = self._optimizer(params)
        for rows in batches:
            h = first or oracle.gradient(rows)
            first, loss = None, h.loss
            gradient = Vector(tuple(h.gradient.parts[i] for i in own), h.gradient.scale)
            del h
            if optimizer is None:
                self._normalized_step(params, gradient)
            else:
                _step(optimizer, params, gradient)
            del gradient
            yield loss

    def _optimizer(self, params: Sequence[Tensor]) -> torch.optim.Optimizer | None:
        if self.optimizer == "normalized_sgd":
            return None
        if self.optimizer == "sgd":
            return torch.optim.SGD(params, lr=self.lr, foreach=False)
        return torch.optim.AdamW(params, lr=self.lr, weight_decay=0.0, fused=True)  # else it takes a copy more

    def _normalized_step(self, params: Sequence[Tensor], gradient: Vector) -> None:
        gradient.unit().add_to([param.data for param in params], by=-self.lr)


def _step(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], gradient: Vector) -> None:
    """One step of a stock optimiser, which reads `.grad`; what was there comes back."""
    aside = [param.grad for param in params]
    try:
        for param, part in zip(params, gradient.tensors(), strict=True):
            param.grad = part
        optimizer.step()
    finally:
        for param, grad in zip(params, aside, strict=True):
            param.grad = grad
