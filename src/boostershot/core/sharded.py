"""Parameters that torch's `fully_shard` (FSDP2) spreads over processes: one's own part, sums over parts, the whole.

A sharded tensor is a DTensor; whatever is not one is whole in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory and without a graph."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process must ask for it."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def like(tensor: Tensor, param: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, spread as the parameter is."""
    if isinstance(tensor, DTensor) or not isinstance(param, DTensor):
        return tensor
    return distribute_tensor(tensor.to(param.device), param.device_mesh, param.placements, src_data_rank=None)


def summed(parts: Sequence[Tensor], values: Tensor) -> float:
    """The sum of a number for each tensor, where that of a sharded one is known of this process's part only.

    Args:
        parts: the tensors, those that are sharded all in one way.
        values: [n], float64.
    """
    mask = torch.tensor([isinstance(part, DTensor) for part in parts], device=values.device)
    own = values[mask].sum()
    sharded = next(part for part in parts if isinstance(part, DTensor))
    dist.all_reduce(own, group=sharded.device_mesh.get_group(_shard_dimension(sharded)))
    return (own + values[~mask].sum()).item()


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Is any of them a part of something?"""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def modules(model: nn.Module) -> Sequence[FSDPModule]:
    """The modules to which `fully_shard` was applied, with their parameters sharded.

    Parameters that a pass has left whole would not notice that their parts are moved: a perturbation would be nothing.
    """
    found = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in found:
        module.reshard()
    return found


def check(params: Iterable[Tensor]) -> None:
    """Raises ValueError if a parameter is sharded in another way than by `fully_shard` over all processes."""
    for param in params:
        if isinstance(param, DTensor):
            shards = sum(placement.is_shard() for placement in param.placements)
            if shards != 1 or param.device_mesh.size() != dist.get_world_size():
                raise ValueError(
                    f"a parameter is spread as {param.placements} over {param.device_mesh.size()} of "
                    f"{dist.get_world_size()} processes; expected fully_shard over all, and no other parallelism"
                )


def _shard_dimension(tensor: DTensor) -> int:
    return next(i for i, placement in enumerate(tensor.placements) if placement.is_shard())
