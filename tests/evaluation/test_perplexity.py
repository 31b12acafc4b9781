"""Perplexity of texts, against the model's own logits one text at a time."""

import pytest
import torch

from boostershot.data.format import Format
from boostershot.data.rows import Completion
from boostershot.errors import InputError
from boostershot.evaluation.perplexity import text_losses
from tiny import THINGS, tiny_llama, tiny_tokenizer

TEXTS = [
    Completion(f"t{i}", "", f"There is {thing}, and nothing {'else ' * i}to see.") for i, thing in enumerate(THINGS)
]


@pytest.fixture(scope="module")
def read():
    tokenizer = tiny_tokenizer(chat=True)
    return tiny_llama(vocab=len(tokenizer), std=0.2).eval(), Format.choose(tokenizer)


@torch.no_grad()
def nats(model, ids, given):
    logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(logs[i - 1, ids[i]].item() for i in range(given, len(ids)))


def test_plain_texts_are_read_without_a_template(read):
    model, form = read
    found = text_losses(model, form, TEXTS, max_length=40)
    for text, (loss, tokens) in zip(TEXTS, found, strict=True):
        ids = form.tokenizer(text.completion).input_ids[:40]
        assert tokens == len(ids) - 1
        assert loss == pytest.approx(nats(model, ids, 1), rel=1e-5)
    assert max(tokens for _, tokens in found) == 39


def test_of_a_text_with_a_prompt_the_completion_counts(read):
    model, form = read
    ((loss, tokens),) = text_losses(model, form, [Completion("x", "What is there?", "A kite.")])
    prompt, answer = form.prompt_ids("What is there?"), form.answer_ids("A kite.")
    assert tokens == len(answer)
    assert loss == pytest.approx(nats(model, [*prompt, *answer], len(prompt)), rel=1e-5)


def test_a_text_of_a_single_token_is_told(read):
    model, form = read
    with pytest.raises(InputError, match="x: the text has a single token"):
        text_losses(model, form, [Completion("x", "", "a")])
