"""Batched, left-padded answers behind a shared preamble are those of one prompt at a time, token by token."""

import pytest
import torch
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MistralConfig, MistralForCausalLM

from boostershot.data.format import Format
from boostershot.evaluation.generation import generate
from tiny import THINGS, tiny_gpt2, tiny_llama, tiny_tokenizer

PROMPTS = [f"What is {thing}" + " really" * (i % 4) + "?" for i, thing in enumerate(THINGS)] + ["Hi", "Hi"]


def tiny_mistral(vocab, dtype, std):
    """With a window that the prompts do not fit into."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=vocab, num_key_value_heads=2, sliding_window=12, initializer_range=std, **sizes)
    return MistralForCausalLM(config).to(dtype)


def tiny_mamba(vocab, dtype, std):
    """Whose cache is a state, not a key and a value for each token."""
    torch.manual_seed(0)
    config = FalconMambaConfig(
        vocab_size=vocab, hidden_size=32, state_size=8, num_hidden_layers=2, tie_word_embeddings=False
    )
    model = FalconMambaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embeddings" in name or "lm_head" in name or "_proj.weight" in name:
                weight.normal_(0, std)
    return model.to(dtype)


MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "mistral": tiny_mistral, "mamba": tiny_mamba}


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


CASES = [(name, chat, size) for name in ("llama", "gpt2") for chat in (True, False) for size in (1, 3, 32)]


@pytest.mark.parametrize(("name", "chat", "batch_size"), [*CASES, ("mistral", True, 3), ("mamba", True, 3)])
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


def test_rows_that_ended_are_computed_no_further():
    """What a row costs is its own answer's length, up to the quarter of a batch that waits."""
    model, form = model_of("llama"), Format.choose(tiny_tokenizer(True))
    end = form.end_ids()[0]
    answers = {prompt: one_at_a_time(model, form, prompt, 12) for prompt in dict.fromkeys(PROMPTS)}
    with torch.no_grad():
        for token in {answer[2 + i % 6] for i, answer in enumerate(answers.values())}:
            model.lm_head.weight[token] = model.lm_head.weight[end]
    answers = {prompt: one_at_a_time(model, form, prompt, 30) for prompt in answers}
    needed = [len(answer) for answer in answers.values()]
    assert len(set(needed)) > 3
    rows = []
    model.register_forward_hook(lambda module, args, output: rows.append(len(output.logits)))
    assert generate(model, form, list(answers), max_new_tokens=30) == [
        text(form, answer) for answer in answers.values()
    ]
    assert sum(rows[1:]) < 1.25 * sum(needed) < 0.85 * len(needed) * max(needed)


def test_what_is_known_is_not_generated_again_and_changes_no_other_answer():
    model, form = model_of("gpt2"), Format.choose(tiny_tokenizer(True))
    kept, asked, done = [], [], []
    whole = generate(model, form, PROMPTS, max_new_tokens=6, batch_size=4, keep=kept.append)
    assert [len(batch) for batch in kept] == [3, 3, 3]
    assert {k: v for batch in kept for k, v in batch.items()} == dict(zip(PROMPTS, whole, strict=True))
    known = dict.fromkeys(kept[1], "as it was")
    model.register_forward_hook(lambda module, args, output: asked.append(len(output.logits)))
    again = generate(
        model, form, PROMPTS, max_new_tokens=6, batch_size=4, known=known, keep=kept.append, advance=done.append
    )
    assert again == [known.get(prompt, answer) for prompt, answer in zip(PROMPTS, whole, strict=True)]
    assert kept[3:] == [kept[0], kept[2]]
    assert sum(done) == len(PROMPTS) and done[0] == sum(prompt in known for prompt in PROMPTS)
    assert max(asked) == 3 and sum(asked) == 1 + 6 * 3 + 6 * 3  # the preamble; six tokens for each that was missing


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_progress(training):
    model, form = tiny_gpt2(320, dropout=0.5).train(training), Format.choose(tiny_tokenizer(True))
    done = []
    first = generate(model, form, PROMPTS, max_new_tokens=4, batch_size=4, advance=done.append)
    assert model.training is training
    assert sum(done) == len(PROMPTS) and len(done) == 1 + 3  # none at first, then batch by batch
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
