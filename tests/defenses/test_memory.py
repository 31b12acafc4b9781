"""At its peak Booster holds two tensors of the trainables' size beyond what SFT needs."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import boostershot as bs
from batches import batch_of
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
    rows = batch_of([([5, 6, 7], [-100, 6, 7])])
    bs.defense_gradient(model, defense, align=rows, harmful=rows)  # the trial of the layout is done once
    gc.collect()
    with LiveBytes() as spy:
        step = bs.defense_gradient(model, defense, align=rows, harmful=rows)
    del step
    return spy.peak


@pytest.mark.parametrize("align", [bs.SFT(), bs.Booster(lam=1, alpha=0.1)], ids=["sft", "booster"])
def test_two_copies_beyond_sft(align):
    # Three tokens: the activations are small beside the 128 x 32 embeddings and the layers.
    model = tiny_llama()
    size = sum(param.numel() * param.element_size() for param in model.parameters())
    beyond = (peak(model, bs.Booster(lam=5, alpha=0.1, align=align)) - peak(model, bs.SFT())) / size
    allowed = 2 if isinstance(align, bs.SFT) else 3  # beside a nested Booster only the outer h - h_moved waits
    assert 1.5 < beyond < allowed + 0.05
