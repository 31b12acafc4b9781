"""Under what a figure was measured, and how much arithmetic a step is for this machine."""

from __future__ import annotations

import datetime
import os
import platform
from typing import Any

import torch
from torch import nn

from boostershot.core.batch import Layout, Rows, padded
from boostershot.core.losses import lay_out, text_config


def facts(repeats: int) -> dict[str, Any]:
    """The date, the threads and how busy the machine is; figures of a busy one are ratios all the same."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "repeats": repeats,
    }


def step_flops(model: nn.Module, rows: Rows, *, plain: bool = False) -> float:
    """Floating-point operations of one forward and backward pass over the rows' distinct tokens.

    A frozen matrix of n numbers takes 2n a token forward and 2n backward (for its input), a trained one 2n more (for
    itself); attention takes 4 times width forward for each pair of a token and one that it attends to, and twice that
    backward; the output embedding sees supervised positions only. Norms, activations and the softmax are left out:
    they are no matrix products.

    Args:
        plain: over all tokens of the padded rows, all of which are projected, as a plain trainer does.
    """
    layout = padded(rows) if plain else lay_out(model, rows)
    seen = layout.tokens if plain else layout.positions.numel()
    head = model.get_output_embeddings()  # type: ignore[operator]
    frozen = trained = projected = 0
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        for param in module.parameters(recurse=False):
            if param.dim() != 2:
                continue
            if module is head:
                projected += param.numel() * (6 if param.requires_grad else 4)
            elif param.requires_grad:
                trained += param.numel()
            else:
                frozen += param.numel()
    config = text_config(model)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 12 * config.num_hidden_layers * _attended(layout) * width
    return layout.tokens * (4.0 * frozen + 6.0 * trained) + seen * projected + attention


def _attended(layout: Layout) -> int:
    """Pairs of a token and one that it attends to."""
    mask = layout.inputs["attention_mask"]
    if mask.dim() == 4:  # a trie's, of additive zeros
        return int((mask == 0).sum())
    lengths = mask.sum(1)
    return int((lengths * (lengths + 1) // 2).sum())


class Product:
    """A large float32 matrix product: the most arithmetic that this machine does in a second."""

    def __init__(self, size: int):
        self.left, self.right = torch.randn(size, size), torch.randn(size, size)
        self.out = torch.empty(size, size)
        self.flops = 2.0 * size**3

    def __call__(self, _repeat: int) -> None:
        """Once."""
        torch.mm(self.left, self.right, out=self.out)
