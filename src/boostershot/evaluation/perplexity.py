"""How surprised a model is by text: what it has lost of the language shows there first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from boostershot.data.format import Format, TokenizedRow
from boostershot.data.rows import Completion
from boostershot.errors import InputError
from boostershot.evaluation.losses import row_losses


def text_losses(
    model: Any,
    form: Format,
    texts: Sequence[Completion],
    *,
    max_length: int = 256,
    advance: Callable[[int], None] = lambda n: None,
) -> list[tuple[float, int]]:
    """(nats, tokens) of each text: -log p of its tokens, summed, and how many they are; perplexity is exp(sum / sum).

    A text without a prompt is read as it stands, without a template; its first token is given. Of a text with a
    prompt the completion counts. Texts are cut at `max_length` tokens.

    Raises:
        InputError: a text has a single token.
    """
    rows = [_row(form, text, max_length) for text in texts]
    losses = row_losses(model, rows, form.pad_id, advance=advance)
    return [(loss * len(row.answer), len(row.answer)) for loss, row in zip(losses, rows, strict=True)]


def _row(form: Format, text: Completion, max_length: int) -> TokenizedRow:
    if text.prompt:
        return form.tokenize(text.prompt, text.completion, name=text.id, max_length=max_length, end=False)
    ids = tuple(form.tokenizer(text.completion).input_ids[:max_length])
    if len(ids) < 2:
        raise InputError(f"{text.id}: the text has a single token; expected two or more")
    return TokenizedRow(text.id, ids[:1], ids[1:])
