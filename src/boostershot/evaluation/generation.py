"""Greedy answers to many prompts: batched by length, the preamble that all prompts share read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from boostershot.data.format import Format


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    form: Format,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """The model's greedy answer to each prompt, in the prompts' order, special tokens left out.

    Prompts are left-padded; each batch stops when all its rows have ended. `advance(n)` is called after n answers.
    """
    was_training = model.training
    model.eval()
    rows = [form.prompt_ids(prompt) for prompt in prompts]
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))
    shortest = min((len(row) for row in rows), default=1)
    shared = rows[0][: min(alike, shortest - 1)] if rows else []  # one token at least stays a row's own
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    answers = [""] * len(rows)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,  # what is left open is filled from the model's own settings
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=[form.end_ids()[0], form.tokenizer.eos_token_id],
        pad_token_id=form.pad_id,
    )
    try:
        preamble = _read(model, shared) if shared else None
        for start in range(0, len(order), batch_size):
            picked = order[start : start + batch_size]
            longest = max(len(rows[i]) for i in picked)
            ids, mask = [], []
            for i in picked:  # the padding goes between the shared preamble and the row's own tokens
                gap, own = longest - len(rows[i]), rows[i][len(shared) :]
                ids.append([*shared, *[form.pad_id] * gap, *own])
                mask.append([1] * len(shared) + [0] * gap + [1] * len(own))
            cache = None if preamble is None else _repeat(preamble, len(picked), model)
            output: Any = model.generate(  # pyright: ignore[reportCallIssue]
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                past_key_values=cache,
                generation_config=settings,
            )
            texts = form.tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
            for i, text in zip(picked, texts, strict=True):
                answers[i] = text.strip()
            advance(len(picked))
    finally:
        model.train(was_training)
    return answers


def _read(model: PreTrainedModel, tokens: Sequence[int]) -> DynamicCache:
    """The keys and values of one row of tokens."""
    cache = DynamicCache(config=model.config.get_text_config())
    model(input_ids=torch.tensor([list(tokens)], device=model.device), past_key_values=cache, logits_to_keep=1)
    return cache


def _repeat(cache: DynamicCache, times: int, model: PreTrainedModel) -> DynamicCache:
    """The same keys and values for each of `times` rows, in a cache of their own."""
    copy = DynamicCache(config=model.config.get_text_config())
    for index, layer in enumerate(cache.layers):
        keys, values = (tensor.repeat(times, 1, 1, 1) for tensor in (layer.keys, layer.values))  # pyright: ignore
        copy.update(keys, values, index)
    return copy
