"""What activation checkpointing, bf16 and torch.compile do to a Booster step: time, memory, and its gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.pipeline.footprint import LiveBytes
from boostershot.training.compiled import compiled_layers
from engine.timing import Ratio, interleaved, ratio
from engine.workload import Workload

DEFAULT = "float32, eager"
CHECKPOINTED, HALF, COMPILED = "activation checkpointing", "bf16", "torch.compile"


@dataclass(frozen=True)
class Option:
    """A model as the option has it, and the context of its steps."""

    work: Workload
    autocast: Callable[[], AbstractContextManager] = nullcontext
    around: Callable[[], AbstractContextManager] = nullcontext

    def gradient(self, number: int) -> list[Tensor]:
        """Booster's on the rows of this repeat."""
        rows = {"align": self.work.align, "harmful": self.work.harmful}
        batch = Batch(**{role: some[number % len(some)] for role, some in rows.items()})
        oracle = Oracle(self.work.model, step=number, autocast=self.autocast)
        with self.around():
            return self.work.booster.step(oracle, batch).gradient.tensors()


def options(work: Workload, backend: str | None = None) -> dict[str, Option]:
    """The default and each option alone, on copies of the model: bf16 has its frozen weights in bfloat16, too."""

    def other(change: Callable[[Any], Any]) -> Workload:
        return replace(work, model=change(copy.deepcopy(work.model)))

    def checkpointed(model: Any) -> Any:
        model.activation_checkpointing_enable()
        return model

    compiled = other(lambda model: model)
    return {
        DEFAULT: Option(work),
        CHECKPOINTED: Option(other(checkpointed)),
        HALF: Option(other(_frozen_in_half), autocast=partial(torch.autocast, "cpu", torch.bfloat16)),
        COMPILED: Option(compiled, around=partial(compiled_layers, compiled.model, backend)),
    }


def against_default(
    work: Workload, repeats: int, backend: str | None = None
) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """Time, bytes at the peak of a step and |difference| / |gradient| of each option.

    Bytes of a compiled step are not counted: its tensors are inside the graph.
    """
    chosen = options(work, backend)
    seconds = interleaved({name: option.gradient for name, option in chosen.items()}, repeats)
    expected = chosen[DEFAULT].gradient(0)
    scale = torch.stack([part.norm() for part in expected]).norm()
    sizes: dict[str, int | None] = {}
    differences = {}
    for name, option in chosen.items():
        found = option.gradient(0)
        off = torch.stack([(a - b).norm() for a, b in zip(found, expected, strict=True)]).norm()
        differences[name] = float(off / scale)
        del found
        sizes[name] = None if name == COMPILED else _peak(option)
    found_ratios = {
        f"{name} / the default": ratio(seconds[name], seconds[DEFAULT]) for name in chosen if name != DEFAULT
    }
    medians = {name: median(some) for name, some in seconds.items()}
    return found_ratios, {"seconds": medians, "bytes": sizes, "differences": differences}


def _peak(option: Option) -> int:
    with LiveBytes() as spy:
        option.gradient(0)
    return spy.peak()


def _frozen_in_half(model: Any) -> Any:
    for param in model.parameters():
        if not param.requires_grad:
            param.data = param.data.to(torch.bfloat16)
    return model
