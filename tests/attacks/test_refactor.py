"""Re-factored weights give what the released ones give, and an adapter trained on them fits the released ones."""

import copy

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from architectures import BUILDS, seeded
from boostershot import InputError
from boostershot.attacks.refactor import refactor
from boostershot.training.arguments import attach_lora
from tiny import tiny_llama

IDS = torch.tensor([[3, 5, 7, 11, 13, 2, 17], [9, 8, 7, 6, 5, 4, 3]])


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def gains(model, name):
    return model.get_submodule(name).weight.detach() + ("Gemma2" in type(model).__name__)


@pytest.mark.parametrize("name", BUILDS)
def test_gains_go_into_the_matrices_and_the_outputs_stay(name):
    model = BUILDS[name]()
    before, state = logits(model), {key: value.clone() for key, value in model.state_dict().items()}
    names = [norm.format(i=i) for norm in BUILDS[name].reading if norm for i in (0, 1)]
    assert all((gains(model, norm) - 1).abs().max() > 0.5 for norm in names)
    done = refactor(model, "norms")
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    for norm in names:
        torch.testing.assert_close(gains(model, norm), torch.ones(32, dtype=torch.float64))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, state[key])}
    after = {key: value.clone() for key, value in model.state_dict().items()}
    assert {f"{part}.weight" for part in (*names, *(BUILDS[name].names("reading") if names else ()))} <= changed
    with done.as_released():
        torch.testing.assert_close(dict(model.state_dict()), state, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, after[key]) for key, value in model.state_dict().items())


def test_a_gain_of_0_stays_and_its_bias_with_it():
    model = BUILDS["gpt2"]()
    with torch.no_grad():
        model.transformer.h[0].ln_1.weight[3] = 0
    before = logits(model)
    refactor(model, "norms")
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    assert model.transformer.h[0].ln_1.weight[3] == 0
    assert (model.transformer.h[0].ln_1.weight == 1).sum() == 31


@pytest.mark.parametrize("tied", [True, False])
def test_the_final_norm_folds_unless_the_output_embedding_is_tied(tied):
    model = BUILDS["llama"]()
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    before, gain = logits(model), model.model.norm.weight.detach().clone()
    refactor(model, "norms")
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.model.norm.weight.detach(), gain if tied else torch.ones_like(gain))


def test_a_norm_that_the_stream_goes_on_from_keeps_its_gains():
    config = OPTConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48,
                       word_embed_proj_dim=32, do_layer_norm_before=False, init_std=0.2)  # fmt: skip
    model = seeded(OPTForCausalLM, config).double().eval()
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.self_attn_layer_norm.weight.uniform_(1, 1.0001)  # too near 1 to be seen in the outputs
    before = {key: value.clone() for key, value in model.state_dict().items()}
    refactor(model, "norms")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def adapted(seed=1):
    model = attach_lora(BUILDS["llama"](torch.float64), {"rank": 4, "alpha": 8}).double().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name:
                param.normal_(std=0.3)
    return model


def test_an_adapter_trained_on_refactored_norms_fits_the_released_model(tmp_path):
    from peft import PeftModel

    model, released = adapted(), BUILDS["llama"]()
    before = logits(model)
    done = refactor(model, "norms")
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_" in name:
                param.add_(0.1)  # a training
    with done.as_released():
        model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(released, str(tmp_path), autocast_adapter_dtype=False).double()
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-6, atol=1e-6)
    assert (logits(model) - before).abs().max() > 0.1


def factors(model):
    layers = [module for module in model.modules() if hasattr(module, "lora_A") and module.lora_A]
    return [(layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()) for layer in layers]


def test_adapter_factors_are_those_of_the_product_alone():
    model, scaled = adapted(), adapted()
    with torch.no_grad():
        for a, b in factors(scaled):
            a.mul_(1e-4)
            b.mul_(1e4)
    before = logits(model)
    for one in (model, scaled):
        refactor(one, "adapter")
        torch.testing.assert_close(logits(one), before, rtol=1e-5, atol=1e-5)
    for (a, b), (c, d) in zip(factors(model), factors(scaled), strict=True):
        torch.testing.assert_close(a @ a.T, b.T @ b)  # both sqrt(S)
        torch.testing.assert_close((a @ a.T).diag().diag(), a @ a.T, rtol=0, atol=1e-10)
        torch.testing.assert_close(c.abs(), a.abs())
        torch.testing.assert_close(d.abs(), b.abs())
    assert factors(model)[0][0].shape == (4, 32)


def test_parts_of_an_adapter_that_are_nothing_can_still_be_trained():
    model = adapted()
    with torch.no_grad():
        for i, (_, b) in enumerate(factors(model)):
            b[:, 2:] = 0
            if i == 0:
                b.zero_()  # as a fresh one
    before = logits(model)
    refactor(model, "adapter")
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for name, param in model.named_parameters():
        if "lora_B" in name:
            assert (param.grad.abs().sum(0) > 0).all(), name


def test_no_adapter_to_refactor_is_one_line():
    with pytest.raises(InputError, match=r"^refactor: adapter, but the model has no adapter; expected [^\n]*$"):
        refactor(tiny_llama(), "adapter")


def test_nothing_asked_for_does_nothing():
    model = tiny_llama()
    before = copy.deepcopy(model.state_dict())
    with refactor(model, None).as_released():
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
