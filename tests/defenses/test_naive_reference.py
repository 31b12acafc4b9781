"""Every gradient equals that of an independent autograd reference, on two architectures, full and LoRA."""

import naive_reference
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel

import boostershot as bs
from batches import random_batch, relative_difference
from tiny import tiny_gpt2, tiny_llama

# GPT-2 computes in float64 throughout; transformers' Llama has its norms and rotations in float32 at any dtype.
MODELS = {"gpt2": (tiny_gpt2, ["c_attn", "c_fc"], 1e-10), "llama": (tiny_llama, "all-linear", 1e-6)}
LAM, ALPHA = 5.0, 0.3


def build(name: str, lora: bool):
    kind, targets, _ = MODELS[name]
    model = kind(dtype=torch.float64, std=0.2)
    if lora:
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=name == "gpt2")
        model = get_peft_model(model, config).to(torch.float64)
        generator = torch.Generator().manual_seed(1)
        for key, param in model.named_parameters():  # LoRA starts with B = 0, where A has no gradient
            if "lora_B" in key:
                param.data = 0.1 * torch.randn(param.shape, generator=generator, dtype=param.dtype)
    return model


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_plain_autograd(name, lora):
    model, tolerance = build(name, lora), MODELS[name][2]
    align, harmful = random_batch(seed=1), random_batch(seed=2)
    for defense, (loss, expected) in (
        (bs.SFT(), naive_reference.sft(model, align)),
        (bs.Booster(lam=LAM, alpha=ALPHA), naive_reference.booster(model, align, harmful, LAM, ALPHA)),
    ):
        step = bs.defense_gradient(model, defense, align=align, harmful=harmful)
        assert step.gradient.keys() == expected.keys()
        assert relative_difference(list(step.gradient.values()), list(expected.values())) < tolerance
        assert step.loss == pytest.approx(loss, rel=tolerance)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_differs_from_the_exact_second_order_gradient(lora):
    # Booster leaves out the Hessian term: a reference that finds no difference would not be testing the direction.
    model, align, harmful = build("gpt2", lora), random_batch(seed=1), random_batch(seed=2)
    step = bs.defense_gradient(model, bs.Booster(lam=LAM, alpha=ALPHA), align=align, harmful=harmful)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        _, exact = naive_reference.booster(model, align, harmful, LAM, ALPHA, second_order=True)
    assert relative_difference(list(step.gradient.values()), list(exact.values())) > 1e-2
