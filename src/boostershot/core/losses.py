"""The next-token loss at supervised positions: the vocabulary projection is computed nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from boostershot.core.batch import Layout, Rows, padded, trie
from boostershot.core.temporarily import keeping_modes

_reads_tries: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def token_losses(model: nn.Module, layout: Layout) -> Tensor:
    """-log p(target) at each supervised position, shape [n], in float32 (float64 for a float64 model).

    The model runs where n is 0, too: another process may wait for it.
    """
    return nn.functional.cross_entropy(token_logits(model, layout), layout.targets, reduction="none")


def token_logits(model: nn.Module, layout: Layout) -> Tensor:
    """The logits at each supervised position: [n, vocabulary], as `token_losses`."""
    with projecting_only(model, layout.positions):
        logits = model(**layout.inputs, use_cache=False).logits
    if logits.shape[:2] != (1, layout.positions.numel()):
        raise ValueError(
            f"{type(model).__name__} does not compute its logits by calling its output embedding on the hidden "
            "states; such a model is not supported"
        )
    return logits[0] if logits.dtype == torch.float64 else logits[0].float()


def in_turn(
    values: Tensor, loss: Callable[[nn.Module, Layout, Tensor], Tensor]
) -> Callable[[nn.Module, Layout], Tensor]:
    """`loss(model, layout, values of the layout's positions)` as a loss of supervised tokens.

    Args:
        values: [n, ...], those of all rows, of which the loss sees micro-batch after micro-batch.
        loss: of any number of positions.
    """
    ahead = values

    def of_next(model: nn.Module, layout: Layout) -> Tensor:
        nonlocal ahead
        here, ahead = ahead[: layout.positions.numel()], ahead[layout.positions.numel() :]
        return loss(model, layout, here)

    return of_next


def log_probabilities(model: nn.Module, layout: Layout) -> Tensor:
    """Of the next token at each supervised position: [n, vocabulary]."""
    return token_logits(model, layout).log_softmax(-1)


def divergence_from(teacher: Tensor) -> Callable[[nn.Module, Layout], Tensor]:
    """KL(teacher | model) at each supervised position.

    Args:
        teacher: `log_probabilities` of all the rows, of which the loss sees micro-batch after micro-batch.
    """

    def divergence(model: nn.Module, layout: Layout, taught: Tensor) -> Tensor:
        return torch.sum(taught.exp() * (taught - log_probabilities(model, layout)), -1)

    return in_turn(teacher, divergence)


@contextmanager
def projecting_only(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Within, the model's output embedding sees only these positions of the flattened hidden states.

    A hook on the projection, and not a call of the inner model, keeps whatever the model does to its logits
    (soft-capping, scaling) and works through any wrapper.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output embedding; expected a causal language model")

    def select(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].flatten(0, 1).index_select(0, positions)[None], *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def lay_out(model: nn.Module, rows: Rows) -> Layout:
    """The cheapest layout of these rows that this model reads exactly."""
    if rows.longest() < shortest_window(model, ("sliding_window", "attention_chunk_size")) and reads_tries(model):
        layout = trie(rows, next(model.parameters()).dtype)
        # These windows are cut by a model's own attention, which counts places in the sequence and not depths.
        if layout.tokens < shortest_window(model, ("window_size", "attention_window_size")):
            return layout
    return padded(rows)


def shortest_window(model: nn.Module, keys: tuple[str, ...]) -> float:
    """The shortest of the attention windows that the model's configuration has under these keys, or infinity."""
    windows = [getattr(text_config(model), key, None) for key in keys]
    return min((window for window in windows if isinstance(window, int)), default=math.inf)


def text_config(model: Any) -> Any:
    """The configuration of the language model, also inside one that sees or hears."""
    return model.config.get_text_config()


def reads_tries(model: nn.Module) -> bool:
    """Does the model give a trie the losses of its padded rows? Tried once for each model, on a few tokens.

    A trial, and not a list of architectures: a model may ignore position ids (ALiBi), masks (state space) or the
    float mask (flash attention).
    """
    if model not in _reads_tries:
        rows = probe_rows(model)
        try:
            with keeping_modes(model), torch.no_grad():
                model.eval()
                expected = token_losses(model, padded(rows))
                actual = token_losses(model, trie(rows, next(model.parameters()).dtype))
            agree = torch.allclose(actual, expected, rtol=1e-3, atol=1e-3)
        except (TypeError, ValueError, RuntimeError, IndexError):
            agree = False
        _reads_tries[model] = agree
    return _reads_tries[model]


def probe_rows(model: nn.Module) -> Rows:
    """Three rows, one parting from another after a shared prefix and one at once; all predict after they part.

    Predictions of the shared prefix alone would say nothing: there a trie is an ordinary causal sequence.
    """
    size = text_config(model).vocab_size
    first, second, third = [3, 5, 7, 11, 13, 2], [3, 5, 11, 2, 7], [11, 7, 3]
    ids = torch.tensor([first, [*second, 0], [*third, 0, 0, 0]]) % size
    mask = torch.tensor([[1] * len(row) + [0] * (6 - len(row)) for row in (first, second, third)])
    rows = Rows.of({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return rows.to(next(model.parameters()).device)
