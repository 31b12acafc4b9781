"""At its peak a defence holds as many tensors of the trainables' size beyond SFT's as it declares."""

import gc
import weakref
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import boostershot as bs
from batches import batch_of
from boostershot.defenses.noise_and_distil import Distil
from every_defense import SETTINGS
from tiny import tiny_llama


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made within, while they live; `peak` is the most at any time."""

    def __init__(self):
        super().__init__()
        self.known: dict[int, weakref.ref] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {self._storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if self._storage(leaf)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            storage = self._storage(leaf)
            if storage and storage._cdata not in self.known and storage._cdata not in given:
                self._watch(storage)
        return out

    @staticmethod
    def _storage(leaf):
        return leaf.untyped_storage() if isinstance(leaf, torch.Tensor) else None

    def _watch(self, storage):
        key, size = storage._cdata, storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone(_):
            self.live -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, gone)


def peak(model, defense) -> int:
    # A few equal rows of three tokens: the activations are small beside the 128 x 32 embeddings and the layers.
    batches, roles = defense.reads(), ("align", "harmful", "paired", "general", "dev")
    rows = {role: batch_of([([5, 6, 7], [-100, 6, 7])] * max(3, batches.get(role, 1))) for role in roles}
    gc.collect()
    with LiveBytes() as spy:
        step = bs.defense_gradient(model, defense, **rows)
    del step
    return spy.peak


@cache
def sft() -> tuple[nn.Module, int]:
    """A model and what it takes to align it alone."""
    model = tiny_llama()
    peak(model, bs.SFT())  # the trial of the layout is done once
    return model, peak(model, bs.SFT())


def beyond_sft(defense) -> float:
    """Tensors of the trainables' size at the peak, beyond those of SFT."""
    model, alone = sft()
    return (peak(model, defense) - alone) / sum(param.numel() * param.element_size() for param in model.parameters())


LESS = {"tar": 1, "patcher, drawn": 0.5}  # a trainer keeps the start's weights; half of delta's tensors are drawn


@pytest.mark.parametrize("label", SETTINGS)
def test_the_declared_memory_is_that_measured(label):
    """Some keep activations beside, a double backward the most of them: half a tensor of this model."""
    cost, measured = SETTINGS[label].cost, beyond_sft(SETTINGS[label])
    least = cost.memory - LESS.get(label, 0)
    assert least - 0.1 < measured < least + (0.6 if cost.activations else 0.1)


def test_copies_of_shared_gradients_are_in_it():
    booster, ascent = bs.Booster(lam=5, alpha=0.1), bs.GradientAscent(lam=0.5)
    for expected, defense in (
        (3, bs.Booster(lam=1, alpha=0.2, align=booster)),
        (3, bs.Sum({"booster": booster, "ascent": ascent})),  # while Booster walks, its h is kept for the ascent
        (3, bs.Sum({"ascent": ascent, "booster": booster})),  # while Booster walks, the ascent's gradient waits
        (4, bs.Sum({"ascent": ascent, "booster": booster, "again": booster})),  # both
        (2, bs.Antibody(alpha=0.1, lam_refuse=0)),
        (3, bs.Antibody(alpha=0.1, lam_refuse=0, align=booster)),
        (5, bs.Antibody(alpha=0.1, align=booster)),
        (4, bs.Booster(lam=1, alpha=0.2, align=bs.Patcher(steps=(3,), round=1, lr=(1e-3,), batches=2))),
    ):
        assert defense.cost.memory == expected
        assert beyond_sft(defense) == pytest.approx(expected, abs=0.05)


def test_so_is_that_of_a_distillation_step():
    model, _ = sft()
    teacher = {name: param.detach().clone() for name, param in model.named_parameters()}
    distil = Distil(teacher)
    beside = distil.cost.memory - 1  # the teacher was there before
    assert beside - 0.1 < beyond_sft(distil) < beside + 0.6
