"""Where a transformer's parts are, found by their structure and not by the names of their classes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import nn

from boostershot.core.losses import text_config


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, in order: the list of alike modules that is as long as the model is deep.

    Raises:
        ValueError: there is no such list, or more than one.
    """
    depth = getattr(text_config(model), "num_hidden_layers", None)
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and all(_attentions(layer) for layer in module)
    ]
    if len(lists) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(lists) or 'no'} lists of {depth} layers with attention; expected one "
            "(what is asked for works on a decoder's attention blocks)"
        )
    return list(lists[0])


def attention_blocks(model: nn.Module) -> list[nn.Module]:
    """The attention block of each decoder layer: its one child whose forward takes an attention mask.

    In a state-space layer that is the mixer in attention's place.

    Raises:
        ValueError: a layer has none, or several.
    """
    return [_only(_attentions(layer), "attention blocks", model) for layer in decoder_layers(model)]


def mlp_blocks(model: nn.Module) -> list[nn.Module]:
    """The feed-forward block of each decoder layer: its one child with matrices that is not the attention.

    Raises:
        ValueError: a layer has none, or several.
    """
    found = []
    for layer in decoder_layers(model):
        attentions = _attentions(layer)
        others = [child for child in layer.children() if child not in attentions and _has_matrices(child)]
        found.append(_only(others, "feed-forward blocks", model))
    return found


def _attentions(layer: nn.Module) -> list[nn.Module]:
    return [child for child in layer.children() if "attention_mask" in inspect.signature(child.forward).parameters]


def _has_matrices(module: nn.Module) -> bool:
    return any(param.dim() > 1 for param in module.parameters())


def _only(found: Sequence[nn.Module], what: str, model: nn.Module) -> nn.Module:
    if len(found) != 1:
        raise ValueError(
            f"a layer of {type(model).__name__} has {len(found) or 'no'} {what}; expected one (what is asked for "
            "works on them)"
        )
    return found[0]
