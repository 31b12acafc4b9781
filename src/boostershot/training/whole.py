"""Weights and optimiser states in whole, as one process has them, also where FSDP2 spreads them over processes.

Every process must call these functions; files of two processes are read by one, and the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from boostershot.core.sharded import like, local, whole
from boostershot.errors import InputError


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """What `save_pretrained` takes as `state_dict`: all weights on the CPU; of a PEFT model those that are trained."""
    frozen = {name for name, param in model.named_parameters() if not param.requires_grad}
    adapter = isinstance(model, PeftModel)
    found: dict[int, Tensor] = {}  # by the place of a process's part: tied weights stay tied
    weights = {}
    for name, tensor in model.state_dict().items():
        if not (adapter and name in frozen):
            place = local(tensor).data_ptr() if tensor.numel() else id(tensor)
            if place not in found:
                found[place] = whole(tensor).cpu()
            weights[name] = found[place]
    return weights


def load_weights(model: nn.Module, folder: Path) -> None:
    """Give a model the weights that a checkpoint has, whatever number of processes wrote it.

    Raises:
        InputError: a trained weight is not in the checkpoint.
    """
    saved: dict[str, Tensor] = {}
    for pattern in ("model*.safetensors", "adapter_model.safetensors"):
        for path in sorted(folder.glob(pattern)):
            saved |= load_file(path)
    # Tied weights once, as they are saved.
    wanted = get_peft_model_state_dict(model) if isinstance(model, PeftModel) else dict(model.named_parameters())
    missing = [name for name in wanted if name not in saved]
    if missing:
        raise InputError(f"{folder}: has no weights {missing[0]}; expected a checkpoint of this model")
    with torch.no_grad():
        for name, tensor in wanted.items():
            local(tensor.detach()).copy_(local(like(saved[name].to(tensor.dtype), tensor)))


def whole_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's `state_dict`, with tensors on the CPU."""
    state = optimizer.state_dict()
    states = {
        index: {key: whole(value).cpu() if isinstance(value, Tensor) else value for key, value in kept.items()}
        for index, kept in state["state"].items()
    }
    return {**state, "state": states}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimiser a whole state, spread as its parameters are."""
    params = [param for group in optimizer.param_groups for param in group["params"]]

    def spread(value: Any, param: Tensor) -> Any:
        return like(value, param) if isinstance(value, Tensor) and value.shape == param.shape else value

    states = {
        index: {key: spread(value, params[index]) for key, value in kept.items()}
        for index, kept in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": states})
