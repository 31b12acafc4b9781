"""The two factors of each LoRA adapter in a model."""

from __future__ import annotations

from collections.abc import Iterator

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


def lora_pairs(name: str, module: nn.Module) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A, B and the scale of each LoRA adapter on a module, which adds scale * B A to its matrix.

    Raises:
        ValueError: an adapter that is more than two matrices (DoRA, convolutions); `name` is the module's there.
    """
    if not isinstance(module, LoraLayer):
        return
    linears = {key: (a.weight, module.lora_B[key].weight) for key, a in module.lora_A.items()}
    embeddings = {key: (a, module.lora_embedding_B[key]) for key, a in module.lora_embedding_A.items()}
    for key, (a, b) in {**linears, **embeddings}.items():
        if a.dim() != 2 or b.dim() != 2 or key in module.lora_magnitude_vector:
            raise ValueError(f"the adapter on {name} is not W + scale * B A with two matrices; expected such a one")
        yield a, b, module.scaling[key]
