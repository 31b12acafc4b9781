"""What a decoder computes on its way to the logits, at supervised positions, and the losses of its early guesses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from boostershot.core.batch import Layout
from boostershot.core.blocks import decoder_layers
from boostershot.core.losses import projecting_only, token_losses
from boostershot.core.oracle import rewriting


def outputs_at(model: nn.Module, modules: Sequence[nn.Module], layout: Layout) -> Tensor:
    """These modules' outputs at the supervised positions, in the positions' order: [n, modules, width].

    Raises:
        ValueError: the model does not run one of them.
    """
    # `output_hidden_states` would know layers only, and leave hooks of its own behind.
    with keeping_outputs(model, modules, layout) as outputs, projecting_only(model, layout.positions[:1]):
        logits = model(**layout.inputs, use_cache=False).logits
    # Nothing of the logits but their graph: a sharded layer gathers its weights when a backward enters by its output.
    return outputs() + 0 * logits.sum()


@contextmanager
def keeping_outputs(model: nn.Module, modules: Sequence[nn.Module], layout: Layout) -> Iterator[Callable[[], Tensor]]:
    """Around a pass over the layout: the call gives these modules' outputs, as `outputs_at` does, with its error."""
    found: dict[int, Tensor] = {}

    def keep(k: int, out: Tensor) -> Tensor:
        found[k] = out
        return out

    def outputs() -> Tensor:
        if len(found) < len(modules):
            raise ValueError(f"{type(model).__name__} did not run all of its {len(modules)} blocks")
        return torch.stack([_select(found[k], layout) for k in range(len(modules))], 1)

    with rewriting(modules, keep):
        yield outputs


def lens_losses(model: nn.Module, layout: Layout) -> Tensor:
    """-log p(target) at each supervised position, averaged over all depths at which the model may be asked: [n].

    The embedding output and each layer's output but the last go through the model's final norm and output embedding
    ("logit lens"); the last layer's output gives the model's own loss. What a model does to its logits after the
    projection (soft-capping) counts in its own loss only. The logits of one depth at a time are in memory: they are
    computed anew for the backward.

    Raises:
        ValueError: the model has no recognisable decoder layers, or not one norm after them.
    """
    with _watching(model) as (states, after):
        total = token_losses(model, layout)
    norm, head = _final_norm(model, after), model.get_output_embeddings()  # type: ignore[operator]

    def guess(state: Tensor) -> Tensor:
        logits = head(norm(state[None]))[0]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return nn.functional.cross_entropy(logits, layout.targets, reduction="none")

    for state in states:
        loss = checkpoint(guess, _select(state, layout), use_reentrant=False)
        assert isinstance(loss, Tensor)
        total = total + loss
    return total / (len(states) + 1)


@contextmanager
def _watching(model: nn.Module) -> Iterator[tuple[list[Tensor], list[nn.Module]]]:
    """Within a pass: what each decoder layer is given, and which of the modules beside them run after the last.

    The hooks compute nothing: under activation checkpointing that would not be done again for the backward.
    """
    layers, states, after = decoder_layers(model), list[Tensor](), list[nn.Module]()
    owner = next(module for module in model.modules() if any(_is_list_of(layers, child) for child in module.children()))
    others = [child for child in owner.children() if not isinstance(child, nn.ModuleList)]

    def given(_layer: nn.Module, args: tuple, kwargs: dict) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        after.clear()

    def run(module: nn.Module, *_: object) -> None:
        after.append(module)

    handles = [layer.register_forward_pre_hook(given, with_kwargs=True) for layer in layers]
    handles += [other.register_forward_hook(run) for other in others]
    try:
        yield states, after
    finally:
        for handle in handles:
            handle.remove()


def _select(states: Tensor, layout: Layout) -> Tensor:
    return states.flatten(0, 1).index_select(0, layout.positions)


def _is_list_of(layers: list[nn.Module], module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList) and list(module) == layers


def _final_norm(model: nn.Module, after: Sequence[nn.Module]) -> nn.Module:
    """The one module between the last layer and the output embedding, if it has no matrices."""
    if len(after) != 1 or any(param.dim() > 1 for param in after[0].parameters()):
        raise ValueError(
            f"{type(model).__name__} has {', '.join(type(module).__name__ for module in after) or 'nothing'} between "
            "its last layer and its output embedding; expected one norm (this defence reads layers through it)"
        )
    return after[0]
