"""The next-token loss at supervised positions: the vocabulary is projected on nowhere else, and piece by piece."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from boostershot.core.batch import Layout, Rows, padded, trie
from boostershot.core.temporarily import keeping_modes, other_forwards

PIECE = 2**26  # bytes of float32 logits that are there at once; below that all positions are projected together
_reads_tries: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_projects_alone: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError)  # of models that cannot read what a trial gives them


def token_losses(model: nn.Module, layout: Layout) -> Tensor:
    """-log p(target) at each supervised position, shape [n], in float32 (float64 for a float64 model).

    Positions whose logits take more than `PIECE` bytes are projected piece by piece, and each piece again for its
    backward: memory does not grow with n times the vocabulary. The model runs where n is 0, too: another process may
    wait for it.
    """
    if layout.positions.numel() <= piece(model) or not projects_alone(model):
        return losses_at_once(model, layout)
    return losses_in_pieces(model, layout)


def piece(model: nn.Module) -> int:
    """How many positions are projected together."""
    return max(1, PIECE // (4 * text_config(model).vocab_size))


def losses_in_pieces(model: nn.Module, layout: Layout) -> Tensor:
    """As `token_losses`, of a model that `projects_alone`."""
    size = piece(model)
    hidden, output = decoded(model, layout)

    def losses(hidden: Tensor, targets: Tensor) -> Tensor:
        return _projected_losses(model, hidden, targets, output)

    pieces = zip(hidden.split(size), layout.targets.split(size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([losses(*piece) for piece in pieces])
    return torch.cat([checkpoint(losses, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])


def losses_at_once(model: nn.Module, layout: Layout) -> Tensor:
    """As `token_losses`, by one projection: a second derivative goes through no piece that is computed again."""
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
    return _full(logits[0])


def decoded(model: nn.Module, layout: Layout) -> tuple[Tensor, ModelOutput]:
    """The decoder's last hidden state at each supervised position, [n, width], and all that it gives."""
    output = model.get_decoder()(**layout.inputs, use_cache=False)  # type: ignore[operator]
    return output.last_hidden_state.flatten(0, 1).index_select(0, layout.positions), output


def _projected_losses(model: nn.Module, hidden: Tensor, targets: Tensor, output: ModelOutput) -> Tensor:
    """The losses of these hidden states, by what the model does after its decoder (soft-capping, scaling)."""
    given = copy.copy(output)
    given["last_hidden_state"] = hidden[None]
    with other_forwards([model.get_decoder()], [lambda *_, **__: given]):  # type: ignore[operator]
        logits = model(input_ids=targets[None], use_cache=False).logits[0]
    return nn.functional.cross_entropy(_full(logits), targets, reduction="none")


def _full(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def projects_alone(model: nn.Module) -> bool:
    """Does the model give the same losses where its decoder's hidden states are handed to what comes after?

    Tried once for each model, as `reads_tries`. Not where `fully_shard` was applied: each call gathers weights from all
    processes, and one with fewer positions would make fewer calls, the trial's among them.
    """
    if model not in _projects_alone:

        def trial() -> tuple[Tensor, Tensor]:
            layout = padded(probe_rows(model))
            hidden, output = decoded(model, layout)
            return losses_at_once(model, layout), _projected_losses(model, hidden, layout.targets, output)

        gathers = any(isinstance(module, FSDPModule) for module in model.modules())
        _projects_alone[model] = not gathers and _agree(model, trial, (*_REFUSALS, AttributeError))
    return _projects_alone[model]


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
    if shares_prefixes(model, rows):
        layout = trie(rows, next(model.parameters()).dtype)
        # These windows are cut by a model's own attention, which counts places in the sequence and not depths.
        if layout.tokens < shortest_window(model, ("window_size", "attention_window_size")):
            return layout
    return padded(rows)


def shares_prefixes(model: nn.Module, rows: Rows) -> bool:
    """Can these rows be read as a trie?"""
    return rows.longest() < shortest_window(model, ("sliding_window", "attention_chunk_size")) and reads_tries(model)


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

        def trial() -> tuple[Tensor, Tensor]:
            rows = probe_rows(model)
            in_rows = token_losses(model, padded(rows))
            return in_rows, token_losses(model, trie(rows, next(model.parameters()).dtype))

        _reads_tries[model] = _agree(model, trial, _REFUSALS)
    return _reads_tries[model]


def _agree(model: nn.Module, trial: Callable[[], tuple[Tensor, Tensor]], refusals: tuple[type[Exception], ...]) -> bool:
    """Does the model, dropout off, give the two alike? No where it refuses one."""
    try:
        with keeping_modes(model), torch.no_grad():
            model.eval()
            one, other = trial()
        return torch.allclose(one, other, rtol=1e-3, atol=1e-3)
    except refusals:
        return False


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
