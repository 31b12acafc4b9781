"""The three attackers train the weights that they say: the same adapter, a new one on the merged model, or all."""

import copy

import pytest
import torch
from peft import PeftModel

from boostershot import AttackArguments, HarmfulMix, InputError, attack
from boostershot.training.arguments import attach_lora
from tiny import preference_rows, tiny_llama, tiny_tokenizer

IDS = torch.arange(12)[None]
ROWS = [
    {"id": str(i), "prompt": row["prompt"], "completion": row["rejected"], "harmful": i % 2 == 0}
    for i, row in enumerate(preference_rows(16))
]


@pytest.fixture
def immunised():
    """A model with an adapter that does something."""
    model = attach_lora(tiny_llama(320), {"rank": 4, "alpha": 4})
    torch.manual_seed(1)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name:
                param.normal_(std=0.3)
    return model


def attacked(folder, model, adapter, record=lambda step, model: None):
    args = AttackArguments(
        output_dir=str(folder),
        adapter=adapter,
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lora={"rank": 2, "alpha": 2},
        record_steps=[0],
        disable_tqdm=True,
        use_cpu=True,
    )
    mix = HarmfulMix(p=0.5, n=8)
    return attack(model, tiny_tokenizer(True), ROWS, mix, args, record=record)


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def named(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def test_continue_trains_the_immunised_adapter_and_nothing_else(tmp_path, immunised):
    before = named(immunised)
    after = attacked(tmp_path, immunised, "continue")
    assert after is immunised and list(after.peft_config) == ["default"]
    for name, value in named(after).items():
        assert torch.equal(value, before[name]) != ("lora_" in name), name


def test_fresh_starts_from_the_merged_model_and_leaves_it_alone(tmp_path, immunised):
    start = logits(immunised)
    merged = named(copy.deepcopy(immunised).merge_and_unload())
    seen = []
    after = attacked(tmp_path, immunised, "fresh", lambda step, model: seen.append(logits(model)))
    torch.testing.assert_close(seen[0], start, rtol=0, atol=1e-5)  # a new adapter begins at zero
    assert isinstance(after, PeftModel) and after.peft_config["default"].r == 2
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in named(after).items()
        if "lora_" not in name
    }
    assert base.keys() == merged.keys()
    assert all(torch.equal(base[name], merged[name]) for name in merged)
    assert not torch.allclose(logits(after), start, atol=1e-3)


def test_full_trains_every_weight_of_the_merged_model(tmp_path, immunised):
    start = logits(immunised)
    merged = named(copy.deepcopy(immunised).merge_and_unload())
    seen = []
    after = attacked(tmp_path, immunised, "full", lambda step, model: seen.append(logits(model)))
    torch.testing.assert_close(seen[0], start, rtol=0, atol=1e-5)
    assert not isinstance(after, PeftModel)
    assert [name for name, value in named(after).items() if torch.equal(value, merged[name])] == []


@pytest.mark.parametrize("adapter", ["continue", "full"])
def test_a_copy_of_what_comes_back_computes_with_its_own_weights(tmp_path, immunised, adapter):
    after = attacked(tmp_path, immunised, adapter)
    copied = copy.deepcopy(after)
    with torch.no_grad():
        for param in copied.parameters():
            param.zero_()
    assert logits(after).abs().max() > 0
    assert logits(copied).abs().max() == 0


def test_continue_without_an_adapter_trains_the_plain_model(tmp_path):
    before = named(tiny_llama(320))
    after = attacked(tmp_path, tiny_llama(320), "continue")
    assert [name for name, value in named(after).items() if torch.equal(value, before[name])] == []


def test_continue_on_a_frozen_model_says_so(tmp_path, immunised):
    with pytest.raises(InputError, match="adapter: continue, but nothing of the model is trainable"):
        attacked(tmp_path, immunised.requires_grad_(False), "continue")
