"""What one process of several decides for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from boostershot.errors import InputError

T = TypeVar("T")


def decided_by_the_first(decide: Callable[[], T]) -> T:
    """What the first process finds, in every process; only there is it looked for. All must call this.

    Raises:
        InputError: it raised one; in every process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return decide()
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = decide()
        except InputError as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, src=0)
    found, refused = told
    if refused is not None:
        raise InputError(refused)
    return found
