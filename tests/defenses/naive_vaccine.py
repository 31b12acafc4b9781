"""Vaccine by plain autograd: hooks on the attention modules, the whole padded batch, full logits, no boostershot."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the labelled tokens; positions count from each row's first token."""
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "position_ids": positions}
    logits = model(**inputs, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )


def hooked(model: nn.Module, modules: Sequence[nn.Module], change: Callable[[int, Tensor], Tensor], batch) -> Tensor:
    """The loss with module k's first output changed."""
    handles = [
        module.register_forward_hook(lambda _module, _args, out, k=k: (change(k, out[0]), *out[1:]))
        for k, module in enumerate(modules)
    ]
    value = loss(model, batch)
    for handle in handles:
        handle.remove()
    return value


def output_gradients(model: nn.Module, modules: Sequence[nn.Module], batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The gradient of the loss in each module's first output, in the whole batch."""
    zeros: dict[int, Tensor] = {}

    def plus_zero(k: int, out: Tensor) -> Tensor:  # the gradient in what is added is that in the output
        zeros[k] = torch.zeros_like(out).requires_grad_()
        return out + zeros[k]

    value = hooked(model, modules, plus_zero, batch)
    return list(torch.autograd.grad(value, [zeros[k] for k in range(len(modules))]))


def vaccine(
    model: nn.Module, modules: Sequence[nn.Module], batch: Mapping[str, Tensor], rho: float
) -> tuple[float, dict[str, Tensor]]:
    """f with rho * G / |G| added to the modules' outputs, and its gradient in the trainable parameters."""
    gradients = output_gradients(model, modules, batch)
    norm = torch.cat([part.flatten() for part in gradients]).norm()
    value = hooked(model, modules, lambda k, out: out + rho * gradients[k] / norm, batch)
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    found = torch.autograd.grad(value, list(params.values()), allow_unused=True, materialize_grads=True)
    return value.item(), dict(zip(params, found, strict=True))
