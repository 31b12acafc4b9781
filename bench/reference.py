"""A plain trainer of Booster as public code writes one, to measure ours against; nothing of boostershot is used.

From Algorithm 1 of arXiv 2409.01586. Rows are padded to the longest, every position is projected onto the vocabulary,
tensors are visited one by one, and each gradient is cloned when it is taken and again when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]  # input_ids, attention_mask, labels: [rows, time]
Gradients = dict[str, Tensor]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of the labelled tokens, from the logits of all positions."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    shifted, labels = logits[:, :-1].contiguous(), batch["labels"][:, 1:].contiguous()
    return nn.functional.cross_entropy(shifted.view(-1, shifted.size(-1)), labels.view(-1), ignore_index=-100)


def gradients_of(model: nn.Module, batch: Batch) -> tuple[float, Gradients]:
    """The loss, and a clone of each parameter's gradient."""
    model.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    found = {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}
    model.zero_grad()
    return loss.item(), found


def sft_step(model: nn.Module, align: Batch) -> None:
    """Leaves the alignment loss's gradient in `.grad`."""
    model.zero_grad()
    loss_of(model, align).backward()


def booster_step(model: nn.Module, align: Batch, harmful: Batch, lam: float, alpha: float) -> None:
    """Leaves the gradient of f + lam (h(w) - h(w - alpha g / |g|)) in `.grad`; the weights are moved and moved back."""
    _, aligned = gradients_of(model, align)
    _, at_home = gradients_of(model, harmful)

    norm = torch.norm(torch.stack([torch.norm(gradient.clone()) for gradient in at_home.values()]))
    for name, param in model.named_parameters():
        if name in at_home:
            param.data -= alpha * at_home[name].clone() / norm
    _, moved = gradients_of(model, harmful)
    for name, param in model.named_parameters():
        if name in at_home:
            param.data += alpha * at_home[name].clone() / norm

    for name, param in model.named_parameters():
        if name in aligned:
            param.grad = aligned[name].clone() + lam * at_home[name].clone() - lam * moved[name].clone()
