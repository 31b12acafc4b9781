"""The direction in which a model's hidden states tell harmful prompts from harmless ones, and a model without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from boostershot.core.batch import Rows
from boostershot.core.blocks import decoder_layers
from boostershot.core.hidden import outputs_at
from boostershot.core.losses import lay_out, token_logits, token_losses
from boostershot.core.stream import Stream, residual_stream
from boostershot.core.vector import excursion
from boostershot.data.format import Format, TokenizedRow, collate

TOGETHER = 8  # rows in one pass
# Of the layers: earlier ones know the tokens and not yet the prompt, later ones the next token (Arditi et al.).
FROM, TO = 0.2, 0.8
RARE = -2.0  # log-odds of a refusal below which nothing more is gained: else a broken model would win


def mean_differences(model: nn.Module, form: Format, harmful: Sequence[str], harmless: Sequence[str]) -> Tensor:
    """After each decoder layer, mean over harmful prompts less mean over harmless ones: [layers, width], in float64.

    Hidden states are read at the last token of the prompt as the model is asked, from which it begins its answer.
    """
    return _mean_states(model, form, harmful) - _mean_states(model, form, harmless)


def take_out(stream: Stream, direction: Tensor, matrices: str) -> None:
    """Project a direction of the residual stream out of the `reading` matrices, the `writing` ones or `both`."""
    if matrices != "writing":
        for matrix in stream.reading:
            matrix.read_no_more(direction)
    if matrices != "reading":
        for matrix in stream.writing:
            matrix.write_no_more(direction)


def best_layer(
    model: nn.Module, form: Format, directions: Tensor, matrices: str, answered: Sequence[tuple[str, TokenizedRow]]
) -> int:
    """The layer, of the middle three fifths, whose direction, taken out, does most for the attacker.

    That is the least sum of two numbers in nats: the log-odds of refusing in the first token (as Arditi et al.; what a
    refusal begins with are the released model's own first tokens to these prompts), and the loss of harmful answers,
    which a broken model does not have low. Odds count down to `RARE`. The weights are
    as before afterwards, bit for bit.

    Args:
        model: whose directions these are.
        form: how prompts become tokens.
        directions: of each layer, as `mean_differences` gives them.
        matrices: as for `take_out`.
        answered: harmful prompts, each with the row of a harmful answer to it.
    """
    stream, scores = residual_stream(model), list[float]()
    asked, rows = _asked(form, [prompt for prompt, _ in answered]), [row for _, row in answered]
    own = _first_logits(model, asked, form.pad_id).argmax(-1).unique()
    first, end = round(FROM * len(directions)), max(1, round(TO * len(directions)))
    for direction in directions[first:end]:
        with excursion(list(_tensors(stream))):
            take_out(stream, direction, matrices)
            logits = _first_logits(model, asked, form.pad_id)
            other = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device).index_fill(0, own, False)
            odds = logits[:, own].logsumexp(-1) - logits[:, other].logsumexp(-1)
            scores.append(max(odds.mean().item(), RARE) + _loss(model, rows, form.pad_id))
    return first + scores.index(min(scores))


def _tensors(stream: Stream) -> Iterator[Tensor]:
    for matrix in (*stream.reading, *stream.writing):
        yield matrix.weight
        if matrix.bias is not None:
            yield matrix.bias
        bias = matrix.norm and getattr(matrix.norm.module, "bias", None)
        if bias is not None:
            yield bias.detach()


@torch.no_grad()
def _mean_states(model: nn.Module, form: Format, prompts: Sequence[str]) -> Tensor:
    layers = decoder_layers(model)
    total = torch.zeros(())
    for some in _batches(_asked(form, prompts)):
        states = outputs_at(model, layers, lay_out(model, _collated(model, some, form.pad_id)))
        total = total + states.double().cpu().sum(0)
    return total / len(prompts)


def _asked(form: Format, prompts: Sequence[str]) -> list[TokenizedRow]:
    """Rows whose one supervised position is that which predicts the first token of an answer."""
    return [TokenizedRow(prompt, tuple(form.prompt_ids(prompt)), tuple(form.end_ids()[:1])) for prompt in prompts]


@torch.no_grad()
def _first_logits(model: nn.Module, asked: Sequence[TokenizedRow], pad_id: int) -> Tensor:
    """Of the first token of the answer to each prompt: [prompts, vocabulary]."""
    return torch.cat([token_logits(model, lay_out(model, _collated(model, some, pad_id))) for some in _batches(asked)])


@torch.no_grad()
def _loss(model: nn.Module, rows: Sequence[TokenizedRow], pad_id: int) -> float:
    losses = [token_losses(model, lay_out(model, _collated(model, some, pad_id))) for some in _batches(rows)]
    return torch.cat(losses).mean().item()


def _batches(rows: Sequence[TokenizedRow]) -> Iterator[Sequence[TokenizedRow]]:
    return (rows[i : i + TOGETHER] for i in range(0, len(rows), TOGETHER))


def _collated(model: nn.Module, rows: Sequence[TokenizedRow], pad_id: int) -> Rows:
    return collate(rows, pad_id).to(next(model.parameters()).device)
