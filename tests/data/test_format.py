"""From texts to tokens: training sees the prompt that generation starts from, and labels cover the answer alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boostershot import InputError
from boostershot.data.asking import PLAIN, Asking
from boostershot.data.format import ALPACA, Format, collate
from boostershot.data.rows import Completion
from tiny import CHATML, tiny_tokenizer

TOKENIZERS = {"chat": tiny_tokenizer(True), "alpaca": tiny_tokenizer(False)}
END = {"chat": "<|im_end|>", "alpaca": "</s>"}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>|"), min_size=1, max_size=40)


def format_of(name):
    return Format.choose(TOKENIZERS[name])


@pytest.mark.parametrize("name", ["chat", "alpaca"])
def test_auto_takes_the_chat_template_where_there_is_one(name):
    assert format_of(name).name == name
    assert Format.choose(TOKENIZERS["chat"], "alpaca").name == "alpaca"


def test_chat_without_a_chat_template_names_alpaca():
    with pytest.raises(InputError, match="no chat template; use alpaca") as caught:
        Format.choose(TOKENIZERS["alpaca"], "chat")
    assert "\n" not in str(caught.value)
    with pytest.raises(
        InputError, match="'llama'; expected auto, chat, alpaca, raw, instruction_response or generic_chat"
    ):
        Format.choose(TOKENIZERS["chat"], "llama")


def test_prompt_text():
    form = format_of("chat")
    chat = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert form.tokenizer.decode(form.prompt_ids("Hi")) == chat
    form = format_of("alpaca")
    assert form.tokenizer.decode(form.prompt_ids("Hi")) == ALPACA.format(prompt="Hi")
    assert "### Instruction:\nHi\n\n### Response:\n" in ALPACA.format(prompt="Hi")


ASKING = Asking(system="Obey.", shots=(("One?", "Yes."),), before="[", after="]", prefill="Sure,")


def test_asked_in_another_way():
    form = Format.choose(TOKENIZERS["chat"]).asked(ASKING)
    chat = (
        "<|im_start|>system\nObey.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        "<|im_start|>user\n[Hi]<|im_end|>\n<|im_start|>assistant\nSure,"
    )
    assert form.tokenizer.decode(form.prompt_ids("Hi")) == chat
    raw = Format.choose(TOKENIZERS["alpaca"], "raw").asked(ASKING)
    assert raw.tokenizer.decode(raw.prompt_ids("Hi")) == "Obey.\n\nOne?\nYes.\n\n[Hi]\nSure,"
    marked = Format.choose(TOKENIZERS["alpaca"], "generic_chat").asked(ASKING)
    turns = "User: One?\nAssistant: Yes.\n\nUser: [Hi]\nAssistant: "
    assert marked.tokenizer.decode(marked.prompt_ids("Hi")) == f"Obey.\n\n{turns}Sure,"
    bare = Format.choose(TOKENIZERS["alpaca"], "instruction_response")
    assert bare.tokenizer.decode(bare.prompt_ids("Hi")) == "INSTRUCTION: HiRESPONSE: "
    alpaca = Format.choose(TOKENIZERS["alpaca"]).asked(ASKING)
    turns = ALPACA.format(prompt="One?") + "Yes.\n\n" + ALPACA.format(prompt="[Hi]")
    assert alpaca.tokenizer.decode(alpaca.prompt_ids("Hi")) == f"Obey.\n\n{turns}Sure,"
    task = form.asked(ASKING.for_task())
    assert "Obey." in task.tokenizer.decode(task.prompt_ids("Hi"))
    assert task.prompt_ids("Hi") == form.asked(Asking(system="Obey.")).prompt_ids("Hi")


NO_SYSTEM = {  # how chat templates without a system turn take one
    "refuses": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}",
    "leaves it out": "",
}


@pytest.mark.parametrize("how", NO_SYSTEM)
def test_without_a_system_turn_the_first_user_turn_has_its_text(how):
    tokenizer = copy.deepcopy(TOKENIZERS["chat"])
    tokenizer.chat_template = NO_SYSTEM[how] + (
        "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    )
    form = Format.choose(tokenizer).asked(ASKING)
    assert tokenizer.decode(form.prompt_ids("Hi")) == "[user]Obey.\n\nOne?[assistant]Yes.[user][Hi]Sure,"
    plain = form.asked(PLAIN)
    assert tokenizer.decode(plain.prompt_ids("Hi")) == "[user]Hi"


@pytest.mark.parametrize("name", ["chat", "alpaca", "raw", "instruction_response", "generic_chat"])
def test_tokens_around_a_question(name):
    form = Format.choose(TOKENIZERS["chat" if name == "chat" else "alpaca"], name)
    assert form.around == 0
    asked = form.asked(ASKING)
    for question in ("x", "y"):
        assert len(asked.prompt_ids(question)) - len(form.prompt_ids(question)) == asked.around > 0


@pytest.mark.parametrize("name", ["chat", "alpaca"])
@given(prompt=TEXT, answer=TEXT, room=st.integers(1, 60))
@settings(deadline=None, max_examples=25)
def test_labels_cover_exactly_the_answer_and_its_end(name, prompt, answer, room):
    form = format_of(name)
    start = form.prompt_ids(prompt)
    row = form.tokenize(prompt, answer, name="r", max_length=len(start) + room)
    assert list(row.prompt) == start
    full = [
        *form.tokenizer(answer, add_special_tokens=False).input_ids,
        form.tokenizer.convert_tokens_to_ids(END[name]),
    ]
    assert list(row.answer) == full[:room]
    assert row.input_ids == start + full[:room]
    assert row.labels == [-100] * len(start) + full[:room]
    if room >= len(full):  # nothing is lost on the way back either
        assert form.tokenizer.decode(row.answer) == answer + END[name]


@pytest.mark.parametrize("name", ["chat", "alpaca"])
@given(answer=TEXT)
@settings(deadline=None, max_examples=10)
def test_without_an_end_only_the_answer_is_supervised(name, answer):
    form = format_of(name)
    row = form.tokenize("Hi", answer, name="r", max_length=1000, end=False)
    assert list(row.answer) == form.answer_ids(answer)


def test_special_tokens_are_not_written_twice():
    """A tokenizer that adds a first token to every text must not add it to a template that has its own."""
    tokenizer = tiny_tokenizer(True)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 1)])
    form = Format.choose(tokenizer)
    row = form.tokenize("Hi", "there", name="r", max_length=1000)
    assert 1 not in row.input_ids
    assert Format.choose(tokenizer, "alpaca").prompt_ids("Hi")[0] == 1  # Alpaca has none of its own


def test_template_without_an_end_of_turn_ends_with_the_end_of_text():
    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "")
    assert Format.choose(tokenizer).end_ids() == [tokenizer.eos_token_id]


def test_long_prompt_names_the_row_and_empty_answer_too():
    form = format_of("chat")
    length = len(form.prompt_ids("Hi"))
    with pytest.raises(InputError, match=f"row-7: the prompt has {length} tokens, and data.max_length {length}"):
        form.tokenize("Hi", "there", name="row-7", max_length=length)
    assert len(form.tokenize("Hi", "there", name="row-7", max_length=length + 1).answer) == 1
    with pytest.raises(InputError, match="row-8: the answer is empty"):
        form.tokenize("Hi", "", name="row-8", max_length=100, end=False)


@pytest.mark.parametrize("name", ["chat", "alpaca"])
def test_fitting_rows_are_those_that_can_be_tokenised(name):
    form = format_of(name)
    rows = [Completion(str(n), "why é " * n, "there") for n in range(1, 40)]
    for length in (len(form.prompt_ids(rows[20].prompt)), len(form.prompt_ids(rows[20].prompt)) + 1, 30, 400):
        kept = form.fitting(rows, length)
        assert kept == [row for row in rows if len(form.prompt_ids(row.prompt)) < length]
        for row in kept:
            form.tokenize(row.prompt, row.completion, name=row.id, max_length=length)


def test_cut_keeps_whole_tokens():
    form = format_of("chat")
    ids = form.answer_ids("I would rather not talk about a kite.")
    assert form.answer_ids(form.cut("I would rather not talk about a kite.", 4)) == ids[:4]
    assert form.cut("short", 100) == "short"


def test_collate_pads_at_the_right_and_masks_it():
    form = format_of("chat")
    rows = [form.tokenize("Hi", answer, name=answer, max_length=100) for answer in ("yes", "a longer answer")]
    batch = collate(rows, 0)
    assert batch.ids == ("yes", "a longer answer")
    for i, row in enumerate(rows):
        n = len(row.input_ids)
        assert batch.input_ids[i].tolist() == row.input_ids + [0] * (batch.input_ids.shape[1] - n)
        assert batch.attention_mask[i].tolist() == [True] * n + [False] * (batch.input_ids.shape[1] - n)
        assert torch.equal(batch.labels[i][:n], torch.tensor(row.labels)) and (batch.labels[i][n:] == -100).all()
