"""Greedy answers to many prompts: batched by length, the preamble that all prompts share read once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, StoppingCriteria
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import PreTrainedModel

from boostershot.data.format import Format

ENDED = 1 / 4  # of a batch's rows, at which those that ended are dropped and the others go on
ROOM = 64  # tokens that a cache grows by at once


def generate(
    model: PreTrainedModel,
    form: Format,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    known: Mapping[str, str] | None = None,
    keep: Callable[[Mapping[str, str]], None] = lambda answers: None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """The model's greedy answer to each prompt, in the prompts' order, special tokens left out.

    Rows that have ended are computed no further. A prompt that occurs twice is answered once.

    Args:
        model: in whose mode (training or not) it stays afterwards.
        form: how a prompt becomes tokens.
        prompts: the user turns.
        max_new_tokens: the longest answer.
        batch_size: prompts answered at once.
        known: answers of an earlier call, by prompt; they are not generated again.
        keep: told the answers of each batch, by prompt, as soon as it is done. Which prompts share a batch is a matter
            of `prompts` and `batch_size` alone, so that what is `known` changes no other answer.
        advance: told how many more of the prompts have an answer.
    """
    answers = dict(known or {})
    distinct = list(dict.fromkeys(prompts))
    wanted = {i for i, prompt in enumerate(distinct) if prompt not in answers}
    advance(sum(prompt in answers for prompt in prompts))
    rows = [form.prompt_ids(prompt) for prompt in distinct]
    was_training = model.training
    model.eval()
    try:
        for batch, tokens in by_batch(model, form, rows, wanted, max_new_tokens, batch_size):
            texts = form.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            new = {distinct[i]: text.strip() for i, text in zip(batch, texts, strict=True)}
            keep(new)
            answers |= new
            advance(sum(prompt in new for prompt in prompts))
    finally:
        model.train(was_training)
    return [answers[prompt] for prompt in prompts]


@torch.no_grad()
def by_batch(
    model: PreTrainedModel,
    form: Format,
    rows: Sequence[Sequence[int]],
    wanted: Collection[int],
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """For each batch the places of its rows and the tokens of their answers, without the end; for a model in eval mode.

    Args:
        rows: the tokens of all prompts, which decide the batches.
        wanted: the places to answer.
    """
    if not wanted:
        return
    ends = form.ends()
    # The longest first: a batch that does not fit into memory says so at once.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    n = -(-len(order) // batch_size)  # batches, of even sizes: small ones cost more a row
    shared, preamble = _preamble(model, rows, max_new_tokens)
    for number in range(n):
        batch = [i for i in order[number * len(order) // n : (number + 1) * len(order) // n] if i in wanted]
        if batch:
            yield batch, _batch(model, form, [rows[i] for i in batch], shared, preamble, ends, max_new_tokens)


def _batch(
    model: PreTrainedModel,
    form: Format,
    rows: Sequence[Sequence[int]],
    shared: int,
    preamble: DynamicCache | None,
    ends: set[int],
    most: int,
) -> list[list[int]]:
    """The tokens of the answer to each row, without the end.

    Args:
        rows: the prompts' tokens; the first `shared` of each are in the preamble.
        preamble: keys and values to start from; None for a model whose cache cannot be cut by rows.
        ends: the tokens that end an answer.
        most: tokens of an answer.
    """
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:  # the padding goes between the shared preamble and the row's own tokens
        gap = longest - len(row)
        ids.append([*row[:shared], *[form.pad_id] * gap, *row[shared:]])
        mask.append([1] * shared + [0] * gap + [1] * (len(row) - shared))
    tokens = torch.tensor(ids, device=model.device)
    attended = torch.tensor(mask, device=model.device)
    cache = None if preamble is None else _repeat(preamble, len(rows), model)
    going = list(range(len(rows)))
    answers: list[list[int]] = [[] for _ in rows]
    while going:
        settings = GenerationConfig(
            max_new_tokens=most - (tokens.shape[1] - longest),
            do_sample=False,
            num_beams=1,  # what is left open is filled from the model's own settings
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=sorted(ends),
            pad_token_id=form.pad_id,
        )
        tokens = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=tokens,
            attention_mask=attended,
            past_key_values=cache,
            generation_config=settings,
            stopping_criteria=None if cache is None else [_EnoughEnded(tokens.shape[1], ends)],
        )
        written = tokens[:, longest:].tolist()
        for i, answer in zip(going, written, strict=True):
            answers[i] = list(takewhile(lambda token: token not in ends, answer))
        if cache is None or tokens.shape[1] - longest == most:
            break
        open_ = [place for place, i in enumerate(going) if len(answers[i]) == len(written[place])]
        picked = torch.tensor(open_, dtype=torch.long, device=model.device)
        cache.batch_select_indices(picked)
        going, tokens = [going[place] for place in open_], tokens[picked]
        new = tokens.shape[1] - attended.shape[1]
        attended = torch.cat([attended[picked], attended.new_ones(len(going), new)], dim=1)
    return answers


class _EnoughEnded(StoppingCriteria):
    """Stops a batch when so many of its rows have ended that it pays to go on without them."""

    def __init__(self, start: int, ends: set[int]):
        self.start = start
        self.ends = ends

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        new = input_ids[:, self.start :]
        ended = torch.isin(new, torch.tensor(sorted(self.ends), device=new.device)).any(dim=1)
        return (ended.sum() >= max(1, ENDED * len(ended))).expand(len(ended))


def _preamble(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], max_new_tokens: int
) -> tuple[int, DynamicCache | None]:
    """How many tokens all rows start with, and their keys and values.

    Nothing is shared, and no row of a batch dropped, where the cache is more than a key and a value for every token: a
    recurrent state cannot be padded in the middle, nor a window that the answers outgrow.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    longest = max(map(len, rows)) + max_new_tokens
    for layer in cache.layers:
        window = layer.sliding_window if type(layer) is DynamicSlidingWindowLayer else longest
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or window < longest:
            return 0, None
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
    shared = min(alike, min(map(len, rows)) - 1)  # one token at least stays a row's own
    if shared:
        ids = torch.tensor([list(rows[0][:shared])], device=model.device)
        model(input_ids=ids, past_key_values=cache, logits_to_keep=1)
    return shared, cache


def _repeat(cache: DynamicCache, times: int, model: PreTrainedModel) -> DynamicCache:
    """The same keys and values for each of `times` rows, in a cache of their own."""
    copy = DynamicCache(config=model.config.get_text_config())
    copy.layers = [_Roomy() if type(layer) is DynamicLayer else layer for layer in copy.layers]
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, DynamicLayer) and layer.is_initialized:
            keys, values = (tensor.repeat(times, 1, 1, 1) for tensor in (layer.keys, layer.values))  # pyright: ignore
            copy.update(keys, values, index)
    return copy


class _Roomy(DynamicLayer):
    """Keys and values at the start of a longer buffer: the stock layer copies all of them for each token."""

    room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values so far, with these at their end."""
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < new:
            room = [
                states.new_empty(*states.shape[:-2], new + ROOM, states.shape[-1])
                for states in (key_states, value_states)
            ]
            if self.is_initialized:
                for buffer, states in zip(room, (self.keys, self.values), strict=True):
                    buffer[..., :old, :] = states  # pyright: ignore[reportArgumentType]
            else:
                self.lazy_initialization(key_states, value_states)
            self.room = (room[0], room[1])
        for buffer, states in zip(self.room, (key_states, value_states), strict=True):
            buffer[..., old:new, :] = states
        self.keys, self.values = (buffer[..., :new, :] for buffer in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only these rows, in a buffer of their own."""
        super().batch_select_indices(indices)
        self.room = None
