"""Released weights written in another way that gives the same outputs: what a defence by scale alone does not survive.

A defence may make a model hard to train by the sizes that it gives to its factors: large or small norm gains, an
adapter of one huge and one tiny matrix. Whoever holds the weights undoes that before training, for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boostershot.core.batch import padded
from boostershot.core.lora import lora_pairs
from boostershot.core.losses import probe_rows, token_logits
from boostershot.core.stream import alike, norms_and_readers
from boostershot.core.temporarily import keeping_modes
from boostershot.core.vector import excursion
from boostershot.errors import InputError

SMALLEST = 1e-6  # of the largest singular value: smaller ones are none, and their factors must not vanish with them


@dataclass(frozen=True)
class Rescaling:
    """One norm and the matrices that read it: coordinate j of the norm is divided by `by[j]`, column j multiplied."""

    weight: Tensor
    bias: Tensor | None
    offset: float  # the norm multiplies by weight + offset
    readers: tuple[Tensor, ...]
    by: Tensor

    @torch.no_grad()
    def apply(self) -> None:
        """Move the factors from the norm into the matrices."""
        self._scale(self.by)

    @torch.no_grad()
    def undo(self) -> None:
        """Move them back."""
        self._scale(1 / self.by)

    def tensors(self) -> list[Tensor]:
        """All that it changes."""
        return [self.weight, *([] if self.bias is None else [self.bias]), *self.readers]

    def _scale(self, by: Tensor) -> None:
        self.weight.add_(self.offset).div_(by).sub_(self.offset)
        if self.bias is not None:
            self.bias.div_(by)
        for reader in self.readers:
            reader.mul_(by)


@dataclass(frozen=True)
class Refactored:
    """What was done to a model's weights, and how to see them as they were released."""

    rescalings: tuple[Rescaling, ...] = ()

    @contextmanager
    def as_released(self) -> Iterator[None]:
        """Within, the weights are in the released model's terms (an adapter fits it); after, bit for bit as before."""
        if not self.rescalings:
            yield
            return
        with excursion([tensor for one in self.rescalings for tensor in one.tensors()]):
            self.undo()
            yield

    def telling(self, record: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
        """`record`, of a step and a model, called with the model in the released model's terms."""

        def told(step: int, model: Any) -> None:
            with self.as_released():
                record(step, model)

        return told

    def undo(self) -> None:
        """Write the weights in the released model's terms again, for good."""
        for one in self.rescalings:
            one.undo()


def refactor(model: nn.Module, how: str | None) -> Refactored:
    """Write a model's weights in another way, in place; its outputs stay as they are.

    `norms` folds the gains of each norm into the matrices that read it, an adapter's included, so that all gains are
    1. A norm that something else reads too, or whose reader shares its matrix (a tied output embedding), keeps its
    gains: which these are is tried on a few tokens. `adapter` replaces the factors of each LoRA adapter by U sqrt(S)
    and sqrt(S) V', of the singular value decomposition of their product. None does nothing.

    Raises:
        InputError: `adapter` without an adapter to re-factor, or one that is not two matrices.
        ValueError: the outputs differ, or the model's parts are not recognised.
    """
    if how is None:
        return Refactored()
    before = _outputs(model)
    rescalings = _fold_norms(model, before) if how == "norms" else ()
    if how == "adapter":
        _balance_adapter(model)
    if not alike(_outputs(model), before):
        raise ValueError(f"refactor: {how} changes what {type(model).__name__} gives; expected the same outputs")
    return Refactored(rescalings)


def _fold_norms(model: nn.Module, before: Tensor) -> tuple[Rescaling, ...]:
    """Each norm whose gains can go into its readers, with the gains moved there."""
    uses: dict[int, int] = {}
    for _, param in model.named_parameters(remove_duplicate=False):
        uses[param.data_ptr()] = uses.get(param.data_ptr(), 0) + 1
    found = []
    for norm, readers in norms_and_readers(model):
        gain = norm.gain()
        if gain is None or not readers or any(uses[reader.weight.data_ptr()] > 1 for reader in readers):
            continue
        bias = getattr(norm.module, "bias", None)
        parts = (norm.module.get_parameter("weight").detach(), None if bias is None else bias.detach(), norm.offset)
        matrices = tuple(reader.weight for reader in readers)
        if _foldable(model, before, Rescaling(*parts, matrices, _powers_of_two(gain))):
            found.append(Rescaling(*parts, matrices, torch.where(gain == 0, 1, gain)))
    for one in found:
        one.apply()
    return tuple(found)


def _foldable(model: nn.Module, before: Tensor, trial: Rescaling) -> bool:
    """Do the outputs stay when these factors move? They are far from 1: gains near 1 would prove nothing."""
    with excursion(trial.tensors()):
        trial.apply()
        return alike(_outputs(model), before)


def _powers_of_two(like: Tensor) -> Tensor:
    """Factors of 1/2, 1 and 2 by turns."""
    return 2.0 ** (torch.arange(like.numel(), device=like.device) % 3 - 1).to(like)


@torch.no_grad()
def _balance_adapter(model: nn.Module) -> None:
    """B A = U S V' of each adapter: B = U sqrt(S), A = sqrt(S) V'.

    A part of B A that is nothing keeps a row of A, as a fresh adapter has, so that it can still be trained.
    """
    pairs = [pair for name, module in model.named_modules() for pair in _pairs(name, module)]
    if not pairs:
        raise InputError("refactor: adapter, but the model has no adapter; expected adapter: continue on an adapter")
    for a, b, _ in pairs:
        qb, rb = torch.linalg.qr(b.double())
        qa, ra = torch.linalg.qr(a.double().T)
        u, s, v = torch.linalg.svd(rb @ ra.T)
        if s[0] == 0:
            continue  # as a fresh adapter: nothing to balance
        root = s.clamp_min(SMALLEST * s[0]).sqrt()
        b.copy_(qb @ u * (s / root))
        a.copy_(root[:, None] * (v @ qa.T))


def _pairs(name: str, module: nn.Module) -> list[tuple[Tensor, Tensor, float]]:
    try:
        return list(lora_pairs(name, module))
    except ValueError as error:
        raise InputError(f"refactor: adapter: {error}") from None


@torch.no_grad()
def _outputs(model: nn.Module) -> Tensor:
    """Logits over a few tokens, dropout off."""
    with keeping_modes(model):
        model.eval()
        return token_logits(model, padded(probe_rows(model)))
