"""Changes to a model that end with the body of a `with`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def keeping_forwards(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within, any of the modules may be given another forward; after, each runs what it ran before."""
    before = [vars(module).get("forward") for module in modules]  # None where it is the class's
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


@contextmanager
def other_forwards(modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Within, module k runs `forwards[k]`; after, what it ran before, its class's or one in its place."""
    with keeping_forwards(modules):
        for module, forward in zip(modules, forwards, strict=True):
            module.forward = forward
        yield


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Within, any part may be put into training or evaluation; after, each is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
