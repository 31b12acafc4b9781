"""A model started in the middle: its lowest layers do not run, and what they give for a row is read from elsewhere.

Embeddings, positions and masks are the model's own work as ever: the layers below are passed over, and the first one
above them is given the states in place of its input. So nothing depends on how a model embeds, scales or masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from boostershot.core.batch import Layout, Rows, padded
from boostershot.core.blocks import decoder_layers
from boostershot.core.losses import lay_out, probe_rows, token_losses
from boostershot.core.temporarily import keeping_modes, other_forwards

Tokens = tuple[int, ...]  # those of a row, without padding


@dataclass
class Lower:
    """The `depth` lowest decoder layers of a model, of which none is trained.

    Args:
        model: a causal language model.
        depth: how many layers; 1 or more, and fewer than there are.
        states: what enters layer `depth` for a row: its tokens -> [tokens, width].
    """

    model: nn.Module
    depth: int
    states: Callable[[Tokens], Tensor]
    _entering: Tensor | None = field(default=None, init=False)

    def enter(self, rows: Rows, layout: Layout) -> None:
        """The next pass within `skipped` is over this layout of these rows."""
        device, attended = layout.positions.device, rows.attention_mask.flatten()
        found = torch.cat([self.states(tokens) for tokens in tokens_of(rows)]).to(device)
        flat = found.new_zeros(len(attended), found.shape[1])  # where there is padding, nobody attends to it
        flat[attended] = found
        self._entering = flat.index_select(0, layout.places).view(*layout.inputs["input_ids"].shape, -1)

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Within, the layers below are passed over; after, they run as before."""
        layers = decoder_layers(self.model)
        handing = _handing_through_a_tuple if self._gives_tuples else _handing_through

        def given(_layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            hidden = args[0] if args else kwargs["hidden_states"]
            if self._entering is None or self._entering.shape != hidden.shape:
                raise ValueError("the model runs on rows that were not announced, with its lower layers passed over")
            states = self._entering.to(hidden.dtype)
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        handle = layers[self.depth].register_forward_pre_hook(given, with_kwargs=True)
        try:
            with other_forwards(layers[: self.depth], [handing] * self.depth):
                yield
        finally:
            handle.remove()
            self._entering = None

    @cached_property
    def _gives_tuples(self) -> bool:
        """Does a layer give its states as the first of a tuple? Seen in a pass over a few tokens."""
        given: list[bool] = []
        layer = decoder_layers(self.model)[0]
        handle = layer.register_forward_hook(lambda _layer, _args, out: given.append(isinstance(out, tuple)))
        try:
            states_below(self.model, self.depth, probe_rows(self.model))
        finally:
            handle.remove()
        return given[0]


def tokens_of(rows: Rows) -> list[Tokens]:
    """Each row's tokens, without padding."""
    return [tuple(ids[mask].tolist()) for ids, mask in zip(rows.input_ids, rows.attention_mask, strict=True)]


def states_below(model: nn.Module, depth: int, rows: Rows) -> list[Tensor]:
    """What enters decoder layer `depth` for each row: [its tokens, width]. The layers above do not run."""

    def stop(_layer: nn.Module, args: tuple, kwargs: dict) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    handle = decoder_layers(model)[depth].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**padded(rows).inputs, use_cache=False)
    except _Reached as reached:
        return [row[mask].detach() for row, mask in zip(reached.states, rows.attention_mask, strict=True)]
    finally:
        handle.remove()
    raise ValueError(f"{type(model).__name__} did not run its layer {depth}")


def check_starts_at(model: nn.Module, depth: int) -> None:
    """Tried on a few tokens: started at this layer, the model gives the losses of the whole one.

    Raises:
        ValueError: it does not, something outside the layers from `depth` on is trained, or something below is random.
    """
    layers = decoder_layers(model)
    if not 1 <= depth < len(layers):
        raise ValueError(f"is {depth}; expected fewer than this model's {len(layers)} layers")
    above = {id(param) for layer in layers[depth:] for param in layer.parameters()}
    for name, param in model.named_parameters():
        if param.requires_grad and id(param) not in above:
            raise ValueError(f"is {depth}, and {name} is trained; expected trained weights in the layers above only")
    rows = probe_rows(model)
    with keeping_modes(model):
        model.train()
        drawn = [states_below(model, depth, rows) for _ in range(2)]
        model.eval()
        fixed = states_below(model, depth, rows)
        with torch.no_grad():
            starts = _starts_at(model, depth, rows, dict(zip(tokens_of(rows), fixed, strict=True)))
    if not all(torch.equal(a, b) for states in drawn for a, b in zip(states, fixed, strict=True)):
        raise ValueError(f"is {depth}, and {type(model).__name__} has dropout below, which is another in each pass")
    if not starts:
        raise ValueError(f"is {depth}; {type(model).__name__} cannot be started in the middle, expected 0")


def _starts_at(model: nn.Module, depth: int, rows: Rows, states: dict[Tokens, Tensor]) -> bool:
    """Does the model, in both layouts?"""
    layouts = [padded(rows), lay_out(model, rows)]
    expected = [token_losses(model, layout) for layout in layouts]
    lower = Lower(model, depth, states.__getitem__)
    half = next(model.parameters()).dtype in (torch.float16, torch.bfloat16)
    within = 2e-2 if half else 1e-4  # the states were computed in one layout, and are used in two
    try:
        with lower.skipped():
            for layout, losses in zip(layouts, expected, strict=True):
                lower.enter(rows, layout)
                if not torch.allclose(token_losses(model, layout), losses, rtol=within, atol=within):
                    return False
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    return True


def _handing_through(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states


def _handing_through_a_tuple(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, None]:
    return hidden_states, None


class _Reached(Exception):
    """The layer above is about to run on these states."""

    def __init__(self, states: Tensor):
        super().__init__("reached")
        self.states = states
