"""The direction in which a model's hidden states tell harmful prompts from harmless ones, and a model without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from boostershot.core.batch import Rows
from boostershot.core.blocks import decoder_layers
from boostershot.core.hidden import outputs_at
from boostershot.core.losses import lay_out, token_losses
from boostershot.core.stream import Stream, residual_stream
from boostershot.core.vector import excursion
from boostershot.data.format import Format, TokenizedRow, collate

TOGETHER = 8  # rows in one pass
EARLY = 0.8  # of the layers: later ones hold the next token rather than a judgement of the prompt (Arditi et al.)


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
    model: nn.Module, directions: Tensor, matrices: str, answered: Sequence[TokenizedRow], pad_id: int
) -> int:
    """The layer whose direction, taken out, leaves harmful answers the least loss; of the first four fifths.

    The weights are as before afterwards, bit for bit.

    Args:
        model: whose directions these are.
        directions: of each layer, as `mean_differences` gives them.
        matrices: as for `take_out`.
        answered: harmful prompts with harmful answers.
        pad_id: fills the shorter rows.
    """
    stream, losses = residual_stream(model), list[float]()
    for direction in directions[: max(1, round(EARLY * len(directions)))]:
        with excursion(list(_tensors(stream))):
            take_out(stream, direction, matrices)
            losses.append(_loss(model, answered, pad_id))
    return losses.index(min(losses))


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
    # The one supervised position of a row is that which predicts the first token of an answer.
    rows = [TokenizedRow(prompt, tuple(form.prompt_ids(prompt)), tuple(form.end_ids()[:1])) for prompt in prompts]
    total = torch.zeros(())
    for some in _batches(rows):
        states = outputs_at(model, layers, lay_out(model, _collated(model, some, form.pad_id)))
        total = total + states.double().cpu().sum(0)
    return total / len(prompts)


@torch.no_grad()
def _loss(model: nn.Module, rows: Sequence[TokenizedRow], pad_id: int) -> float:
    losses = [token_losses(model, lay_out(model, _collated(model, some, pad_id))) for some in _batches(rows)]
    return torch.cat(losses).mean().item()


def _batches(rows: Sequence[TokenizedRow]) -> Iterator[Sequence[TokenizedRow]]:
    return (rows[i : i + TOGETHER] for i in range(0, len(rows), TOGETHER))


def _collated(model: nn.Module, rows: Sequence[TokenizedRow], pad_id: int) -> Rows:
    return collate(rows, pad_id).to(next(model.parameters()).device)
