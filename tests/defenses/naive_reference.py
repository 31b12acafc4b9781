"""Booster by plain autograd: the whole padded batch, full logits, functional parameters, nothing of boostershot."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

Params = dict[str, Tensor]


def loss(model: nn.Module, params: Params, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the labelled tokens of a right-padded batch, in the model's own dtype."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits = functional_call(model, params, (), inputs).logits
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )


def trainable(model: nn.Module) -> Params:
    """Copies of the trainable parameters, as leaves."""
    return {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}


def sft(model: nn.Module, align: Mapping[str, Tensor]) -> tuple[float, Params]:
    """f and its gradient."""
    params = trainable(model)
    f = loss(model, params, align)
    return f.item(), dict(zip(params, torch.autograd.grad(f, list(params.values())), strict=True))


def gradient(objective: Callable[[Params], Tensor], params: Params) -> tuple[float, Params]:
    """A scalar function of the parameters and its gradient, in new tensors."""
    leaves = {name: param.detach().clone().requires_grad_() for name, param in params.items()}
    value = objective(leaves)
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.item(), dict(zip(leaves, found, strict=True))


def walked(params: Params, direction: Params, by: float) -> Params:
    """params + by * direction / |direction|, one norm over all tensors."""
    norm = torch.cat([part.flatten() for part in direction.values()]).norm()
    return {name: param.detach() + by * direction[name] / norm for name, param in params.items()}


def attacked(model: nn.Module, params: Params, batches: Sequence[Mapping[str, Tensor]], alpha: float) -> Params:
    """The weights after one normalised harmful step of length alpha on each batch."""
    for batch in batches:
        _, direction = gradient(partial(loss, model, batch=batch), params)
        params = walked(params, direction, -alpha)
    return params


def plus(params: Params, other: Params, factor: float = 1.0) -> Params:
    """params + factor * other."""
    return {name: param + factor * other[name] for name, param in params.items()}


def booster(
    model: nn.Module,
    align: Mapping[str, Tensor],
    harmful: Mapping[str, Tensor],
    lam: float,
    alpha: float,
    second_order: bool = False,
) -> tuple[float, Params]:
    """f + lam (h(w) - h(w - alpha g / |g|)) and its gradient; g is a constant unless `second_order`."""
    params = trainable(model)
    h = loss(model, params, harmful)
    gradients = torch.autograd.grad(h, list(params.values()), retain_graph=True, create_graph=second_order)
    norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros((), dtype=gradients[0].dtype)))
    moved = {name: p - alpha * g / norm for (name, p), g in zip(params.items(), gradients, strict=True)}
    objective = loss(model, params, align) + lam * (h - loss(model, moved, harmful))
    result = torch.autograd.grad(objective, list(params.values()))
    return objective.item(), dict(zip(params, result, strict=True))
