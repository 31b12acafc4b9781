"""Batched, left-padded answers behind a shared preamble are those of one prompt at a time, token by token."""

import pytest
import torch

from boostershot.data.format import Format
from boostershot.evaluation.generation import generate
from tiny import THINGS, tiny_gpt2, tiny_llama, tiny_tokenizer

PROMPTS = [f"What is {thing}" + " really" * (i % 4) + "?" for i, thing in enumerate(THINGS)] + ["Hi", "Hi"]
MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2}


def model_of(name):
    """In float64, so that no rounding decides between two tokens; weights large enough to answer variously."""
    return MODELS[name](320, dtype=torch.float64, std=0.3)


@torch.no_grad()
def one_at_a_time(model, form, prompt, most):
    """The definition: the whole text through the model for every token, until an end."""
    ids, ends = form.prompt_ids(prompt), {form.end_ids()[0], form.tokenizer.eos_token_id}
    start = len(ids)
    while len(ids) < start + most and (len(ids) == start or ids[-1] not in ends):
        ids.append(int(model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def text(form, ids):
    return form.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "alpaca"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_one_prompt_at_a_time(name, chat, batch_size):
    model, form = model_of(name), Format.choose(tiny_tokenizer(chat))
    expected = [text(form, one_at_a_time(model, form, prompt, 10)) for prompt in PROMPTS]
    found = generate(model, form, PROMPTS, max_new_tokens=10, batch_size=batch_size)
    assert found == expected
    assert len(set(expected)) > 4  # so that a mixed-up order would show


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "alpaca"])
def test_stops_at_the_end_token(chat):
    model, form = model_of("llama"), Format.choose(tiny_tokenizer(chat))
    end = form.end_ids()[0]
    answers = [one_at_a_time(model, form, prompt, 12) for prompt in PROMPTS]
    with torch.no_grad():  # one token of each answer, at different places, now ends it
        for token in {answer[i % 5 + 1] for i, answer in enumerate(answers)}:
            model.lm_head.weight[token] = model.lm_head.weight[end]
        model.lm_head.weight[end] *= 1.5
    forwards = []
    model.register_forward_hook(lambda *args: forwards.append(1))
    ended = {prompt: answer for prompt in PROMPTS if (answer := one_at_a_time(model, form, prompt, 60))[-1] == end}
    lengths = [len(answer) for answer in ended.values()]
    assert len(ended) >= 4 and len({*lengths}) > 1
    forwards.clear()
    expected = [text(form, answer) for answer in ended.values()]
    assert generate(model, form, list(ended), max_new_tokens=60) == expected
    assert len(forwards) == max(lengths) + 1  # the preamble, and one for each token of the longest answer: no more


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_progress(training):
    model, form = tiny_gpt2(320, dropout=0.5).train(training), Format.choose(tiny_tokenizer(True))
    done = []
    first = generate(model, form, PROMPTS, max_new_tokens=4, batch_size=4, advance=done.append)
    assert model.training is training
    assert done == [4, 4, 2]
    assert generate(model, form, PROMPTS, max_new_tokens=4) == first  # dropout was off


def test_mode_is_restored_after_an_error():
    model, form = tiny_gpt2(320).train(), Format.choose(tiny_tokenizer(True))

    def fail(n):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        generate(model, form, PROMPTS, max_new_tokens=2, advance=fail)
    assert model.training


def test_no_prompts_and_one():
    model, form = model_of("llama"), Format.choose(tiny_tokenizer(True))
    assert generate(model, form, [], max_new_tokens=4) == []
    assert generate(model, form, ["Hi"], max_new_tokens=4) == [text(form, one_at_a_time(model, form, "Hi", 4))]
