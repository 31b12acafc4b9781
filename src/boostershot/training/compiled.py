"""`torch_compile` as a training takes it: the decoder layers are compiled, what is around them stays eager."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import TrainingArguments

from boostershot.core.blocks import decoder_layers
from boostershot.core.temporarily import other_forwards

Arguments = TypeVar("Arguments", bound=TrainingArguments)


@contextmanager
def compiled(model: nn.Module, args: Arguments) -> Iterator[Arguments]:
    """Within, the model's layers are compiled if `args.torch_compile` asks for it.

    Gives the arguments for a stock trainer, which are without that setting: it would compile the whole model, and
    anew in each step for the hook through which the projection sees supervised positions only.

    Raises:
        ValueError: the model has no recognisable decoder layers.
    """
    with ExitStack() as stack:
        if args.torch_compile:
            stack.enter_context(compiled_layers(model, args.torch_compile_backend, args.torch_compile_mode))
            args = copy.copy(args)
            args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None
        yield args


@contextmanager
def compiled_layers(model: nn.Module, backend: str | None = None, mode: str | None = None) -> Iterator[None]:
    """Within, the decoder layers' forward passes are compiled, once for all alike layers and any number of tokens.

    A layer with a hook inside it runs eagerly while the hook is there: a compiled one would go on with the hooks that
    it was traced with, without a word. Hooks on a layer itself are outside what is compiled. Dropout masks are those
    of the eager model.

    Args:
        model: a causal language model, wrapped by peft or not.
        backend, mode: as of `torch.compile`; inductor in its default mode if not given.

    Raises:
        ValueError: the model has no recognisable decoder layers.
    """
    backend = backend or "inductor"
    settings: dict[str, Any] = {"backend": backend, "dynamic": True}
    if mode is not None:
        settings["mode"] = mode
    elif backend == "inductor":
        settings["options"] = {"fallback_random": True}
    layers = decoder_layers(model)
    fast = [_without_hooks(layer, layer.forward, torch.compile(layer.forward, **settings)) for layer in layers]
    with other_forwards(layers, fast):
        yield


def _without_hooks(layer: nn.Module, eager: Callable[..., Any], fast: Callable[..., Any]) -> Callable[..., Any]:
    inside = [module for module in layer.modules() if module is not layer]

    @wraps(eager)
    def forward(*args: Any, **kwargs: Any) -> Any:
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in inside)
        return (eager if hooked else fast)(*args, **kwargs)

    return forward
