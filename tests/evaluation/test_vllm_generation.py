"""The same answers by way of vLLM's interface: a stand-in of the package that runs the folder it is given."""

import sys
import types
from typing import ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from boostershot.data.format import Format
from boostershot.errors import InputError
from boostershot.evaluation.generation import generate
from boostershot.evaluation.vllm_generation import generate_with_vllm, import_vllm
from tiny import THINGS, tiny_llama, tiny_tokenizer

PROMPTS = [f"What is {thing}?" for thing in THINGS] + ["Hi", "Hi"]


class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop_token_ids):
        assert temperature == 0.0
        self.max_tokens, self.stop_token_ids = max_tokens, stop_token_ids


class Completion:
    def __init__(self, token_ids):
        self.token_ids = token_ids


class RequestOutput:
    def __init__(self, token_ids):
        self.outputs = [Completion(token_ids)]


class LLM:
    """Greedy, by definition; like vLLM's it reports the stop token as part of the answer."""

    asked: ClassVar[list] = []

    def __init__(self, *, model, tokenizer, dtype, max_model_len, trust_remote_code, seed, **_):
        assert model == tokenizer and dtype == "float32" and trust_remote_code is False
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.max_model_len = max_model_len

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm):
        outputs = []
        for prompt in prompts:
            ids = list(prompt["prompt_token_ids"])
            start = len(ids)
            self.asked.append(ids[:])
            while len(ids) < start + sampling_params.max_tokens:
                assert len(ids) < self.max_model_len
                ids.append(int(self.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in sampling_params.stop_token_ids:
                    break
            outputs.append(RequestOutput(ids[start:]))
        return outputs


@pytest.fixture
def vllm(monkeypatch):
    stand_in = types.ModuleType("vllm")
    stand_in.LLM, stand_in.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.setattr(LLM, "asked", [])
    return stand_in


def test_equals_our_own_generation_and_asks_only_what_is_missing(vllm, tmp_path):
    form = Format.choose(tiny_tokenizer(True))
    model = tiny_llama(len(form.tokenizer), std=0.3)
    with torch.no_grad():
        model.lm_head.weight[form.end_ids()[0]] *= 2  # so that some answers end early
    model.save_pretrained(tmp_path / "model")
    form.tokenizer.save_pretrained(tmp_path / "model")
    expected = generate(model, form, PROMPTS, max_new_tokens=8)
    kept, done = [], []
    found = generate_with_vllm(
        tmp_path / "model", form, PROMPTS, max_new_tokens=8, keep=kept.append, advance=done.append
    )
    assert found == expected
    assert len(LLM.asked) == len(set(PROMPTS))
    assert kept == [dict(zip(PROMPTS, expected, strict=True))]
    assert sum(done) == len(PROMPTS)
    LLM.asked.clear()
    known = dict.fromkeys(PROMPTS[1:], "as it was")
    again = generate_with_vllm(tmp_path / "model", form, PROMPTS, max_new_tokens=8, known=known)
    assert again == [expected[0], *["as it was"] * (len(PROMPTS) - 1)]
    assert LLM.asked == [form.prompt_ids(PROMPTS[0])]


def test_a_missing_package_is_told_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"runtime.generator: vllm.*pip install '\.\[vllm\]'"):
        import_vllm()
