"""How far an attack has moved a model's weights, relative to where it started."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from boostershot.core.lora import lora_pairs
from boostershot.defenses.update import Adapter, Whole
from boostershot.pipeline.artifacts import ByStep


class Distance:
    """|W - W_start| / |W_start| of the effective weights, at chosen steps.

    An adapter counts with the product that it adds to the weights, so that adapter modes compare. |W_start| is over
    all weights of the model, those that the attack leaves alone included; one matrix at a time is in memory.

    Args:
        path: the JSON file that the distances are added to, by step.
        model: as the attack finds it: with the adapter that it goes on with attached, or with none.
        scratch: a folder for the starting weights, where the attack trains them and not an adapter.
    """

    def __init__(self, path: Path, model: Any, scratch: Path | None = None):
        self.by_step = ByStep(path)
        self.norm = effective_norm(model)
        self._pairs = {
            (name, i): (a.detach().clone(), b.detach().clone())
            for name, module in model.named_modules()
            for i, (a, b, _) in enumerate(lora_pairs(name, module))
        }
        self._start: Path | None = None
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
            self._start = scratch / "start.safetensors"
            save_file({name: param.detach().contiguous() for name, param in model.named_parameters()}, self._start)

    def measure(self, step: int, model: Any) -> None:
        """Add the distance at this step to the file."""
        self.by_step.add(step, self._moved(model) / self.norm if self.norm else None)

    def _moved(self, model: Any) -> float:
        if self._start is not None:
            with safe_open(self._start, "pt") as start:
                return math.sqrt(
                    math.fsum(
                        Whole(param, start.get_tensor(name).to(param.device)).squared_norm()
                        for name, param in model.named_parameters()
                    )
                )
        return math.sqrt(max(0.0, math.fsum(self._adapters(model))))

    def _adapters(self, model: Any) -> Iterator[float]:
        """The squared norm of what each adapter adds now less what it added at the start."""
        for name, module in model.named_modules():
            for i, (a, b, scale) in enumerate(lora_pairs(name, module)):
                first = self._pairs.get((name, i))
                a, b = a.detach(), b.detach()
                if first is not None:  # B A - B0 A0 = [B - B0, B0] [A; A - A0], in which nothing large cancels
                    a0, b0 = first
                    a, b = torch.cat([a, a - a0]), torch.cat([b - b0, b0], dim=1)
                yield Adapter(a, b, scale).squared_norm()


@torch.no_grad()
def effective_norm(model: Any) -> float:
    """The norm of all weights, each LoRA product added to the matrix that it changes."""
    seen, squares = set[int](), []
    for name, module in model.named_modules():
        pairs = list(lora_pairs(name, module))
        if not pairs:
            continue
        layer: Any = module
        weight = layer.get_base_layer().weight
        effective = weight.detach().clone()
        for adapter in layer.active_adapters:
            effective += layer.get_delta_weight(adapter)
        seen |= {id(weight), *(id(one) for a, b, _ in pairs for one in (a, b))}
        squares.append(_square(effective))
    squares += [_square(param) for param in model.parameters() if id(param) not in seen]
    return math.sqrt(math.fsum(squares))


def _square(tensor: torch.Tensor) -> float:
    return torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64).item() ** 2
