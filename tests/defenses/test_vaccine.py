"""Vaccine against plain autograd with hooks written here, on nine architectures found by structure."""

import pytest
import torch
import transformers
from naive_vaccine import loss, vaccine
from peft import LoraConfig, get_peft_model
from test_naive_reference import MODELS, build

import boostershot as bs
from batches import random_batch, relative_difference
from boostershot.core.blocks import attention_blocks
from tiny import tiny_gpt2, tiny_llama

RHO = 2.0
SIZES = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "Llama": {},
    "Mistral": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma": {"head_dim": 8},
    "Gemma2": {"head_dim": 8},
    "Phi": {},
    "GPTNeoX": {},
}


def architecture(name: str):
    if name == "GPT2":
        return tiny_gpt2(std=0.2)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **ARCHITECTURES[name], attn_implementation="eager")
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def attentions(model):
    """The attention modules, by the names of their classes: what the code must do without."""
    return [module for module in model.modules() if type(module).__name__.endswith("Attention")]


def assert_is(model, step, expected, tolerance):
    loss, gradient = expected
    assert step.gradient.keys() == gradient.keys()
    assert relative_difference(list(step.gradient.values()), list(gradient.values())) < tolerance
    assert step.loss == pytest.approx(loss, rel=tolerance)


@pytest.mark.parametrize("micro_batch_size", [None, 3, 1])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_plain_autograd(name, lora, side, micro_batch_size):
    model, tolerance, align = build(name, lora), MODELS[name][2], random_batch(seed=1, side=side)
    step = bs.defense_gradient(model, bs.Vaccine(rho=RHO), align=align, micro_batch_size=micro_batch_size)
    assert_is(model, step, vaccine(model, attentions(model), align, RHO), tolerance)
    assert step.metrics["alignment_loss_unperturbed"] == pytest.approx(loss(model, align).item(), rel=tolerance)
    assert step.metrics["alignment_loss"] > 1.01 * step.metrics["alignment_loss_unperturbed"]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, "GPT2"])
def test_every_attention_block_is_found_and_perturbed(name, lora):
    model, align = architecture(name), random_batch(seed=1)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    found = attentions(model)
    assert len(found) == 2
    assert attention_blocks(model) == found
    step = bs.defense_gradient(model, bs.Vaccine(rho=RHO), align=align)
    assert_is(model, step, vaccine(model, found, align, RHO), 1e-4)
    for left_out in range(2):  # or agreement would say nothing of that block
        _, other = vaccine(model, found[:left_out] + found[left_out + 1 :], align, RHO)
        assert relative_difference(list(step.gradient.values()), list(other.values())) > 0.01


def test_blocks_that_no_trainable_weight_comes_before():
    # LoRA on the feed-forward parts: the first attention's output depends on frozen weights alone.
    model = tiny_llama(dtype=torch.float64, std=0.2)
    config = LoraConfig(r=4, target_modules=["up_proj", "down_proj"], init_lora_weights=False)
    model, align = get_peft_model(model, config).to(torch.float64), random_batch(seed=1)
    step = bs.defense_gradient(model, bs.Vaccine(rho=RHO), align=align, micro_batch_size=3)
    assert_is(model, step, vaccine(model, attentions(model), align, RHO), 1e-6)


@pytest.mark.parametrize(
    "defense",
    [
        bs.Vaccine(),
        bs.Booster(alpha=0.1, align=bs.Vaccine()),
        bs.TVaccine(layers=1),
        bs.RepNoise(),
        bs.CRL(),
        bs.SEAM(),
        bs.TAR(lr=1e-3),
        bs.Sum({"noise": bs.RepNoise(beta=0)}),
    ],
)
def test_what_works_on_a_decoders_parts_looks_for_them_first(defense):
    model = transformers.RwkvForCausalLM(
        transformers.RwkvConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    )
    with pytest.raises(ValueError, match=r"^RwkvForCausalLM has no lists of 2 layers with attention"):
        defense.check_model(model)
    defense.check_model(tiny_llama())
    bs.Booster(alpha=0.1).check_model(model)


@pytest.mark.parametrize("defense", [bs.Vaccine(), bs.TVaccine(layers=1)])
def test_a_model_without_attention_blocks_is_refused_in_one_line(defense):
    config = transformers.RwkvConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    model, rows = transformers.RwkvForCausalLM(config), random_batch()
    message = r"^RwkvForCausalLM has no lists of 2 layers with attention; expected one \(.*attention blocks\)$"
    with pytest.raises(ValueError, match=message):
        bs.defense_gradient(model, defense, align=rows, harmful=rows)
