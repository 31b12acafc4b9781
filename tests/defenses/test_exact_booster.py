"""Booster with `order="exact"` is the gradient of Eq. 1, and first order leaves it as theory says."""

from itertools import pairwise

import naive_reference
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_naive_reference import build
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

import boostershot as bs
from batches import batch_of, random_batch, random_rows, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from tiny import tiny_gpt2, tiny_llama

ALIGN, ROWS = random_batch(seed=1), random_rows(seed=2)
ROWS[4] = (ROWS[4][0], [-100] * len(ROWS[4][0]))  # a micro-batch of one may have nothing to learn from
HARMFUL = batch_of(ROWS)
EXACT = bs.Booster(lam=5.0, alpha=0.3, order="exact")


def difference(step, expected) -> float:
    assert step.gradient.keys() == expected.keys()
    return relative_difference(list(step.gradient.values()), list(expected.values()))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("micro_batch_size", [None, 3, 1])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(("name", "tolerance"), [("gpt2", 1e-8), ("llama", 1e-6)])  # Llama's norms are in float32
def test_equals_autograd_of_the_objective(name, tolerance, lora, micro_batch_size, attention):
    model = build(name, lora)
    model.set_attn_implementation(attention)
    step = bs.defense_gradient(model, EXACT, align=ALIGN, harmful=HARMFUL, micro_batch_size=micro_batch_size)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        loss, expected = naive_reference.booster(model, ALIGN, HARMFUL, EXACT.lam, EXACT.alpha, second_order=True)
    assert difference(step, expected) < tolerance
    assert step.loss == pytest.approx(loss, rel=tolerance)


def test_the_relative_error_of_first_order_halves_with_alpha():
    # Of the bracket alone: its gradient shrinks with alpha, and what first order drops with alpha squared.
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN).gradient
    errors = []
    for alpha in (0.04, 0.02, 0.01, 0.005):
        brackets = []
        for order in ("first", "exact"):
            booster = bs.Booster(lam=1.0, alpha=alpha, order=order)
            step = bs.defense_gradient(model, booster, align=ALIGN, harmful=HARMFUL)
            brackets.append([step.gradient[name] - sft[name] for name in sft])
        errors.append(relative_difference(*brackets))
    assert 0.1 < errors[0] < 0.3
    assert [after / before for before, after in pairwise(errors)] == pytest.approx([0.5] * 3, abs=0.04)


class Once(torch.autograd.Function):
    """The identity, whose backward can't be differentiated."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad


class Fused(nn.Module):
    """A kernel whose backward has no derivative."""

    def forward(self, x):
        q = x[:, None]
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0][:, 0]


class OnceModule(nn.Module):
    """`Once` as a module."""

    def forward(self, x):
        return Once.apply(x)


@pytest.mark.parametrize("operation", [OnceModule, Fused])
def test_an_operation_without_a_second_derivative_is_named_in_one_line(operation):
    model = tiny_gpt2(std=0.2)
    model.transformer.h[0].mlp.act = operation()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bs.defense_gradient(model, bs.Booster(lam=5.0, alpha=0.3), align=ALIGN, harmful=HARMFUL)
    with pytest.raises(ValueError, match=r"^GPT2LMHeadModel has an operation without a second derivative \(.*$"):
        bs.defense_gradient(model, EXACT, align=ALIGN, harmful=HARMFUL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())


def test_so_is_an_attention_with_a_kernel_of_its_own():
    model = tiny_llama()
    oracle, rows = Oracle(model), Rows.of(HARMFUL)
    gradient = oracle.gradient(rows).gradient
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"second derivative \(flash_attention_2 attention\)"):
        oracle.hessian_times(rows, gradient)


def test_the_exact_gradient_is_of_one_step():
    with pytest.raises(ValueError, match="booster: order is exact and steps is 2; the exact gradient is of one step"):
        bs.Booster(alpha=0.1, order="exact", steps=2)


@pytest.mark.parametrize(("lam", "alpha"), [(0.0, 0.1), (5.0, 0.0)])
def test_no_weight_or_no_length_is_sft_bit_for_bit(lam, alpha):
    model = tiny_gpt2(std=0.2)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    step = bs.defense_gradient(model, bs.Booster(lam=lam, alpha=alpha, order="exact"), align=ALIGN, harmful=HARMFUL)
    assert step.loss == sft.loss
    assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)


def test_a_zero_harmful_gradient_gives_sft_and_stays_finite():
    model = get_peft_model(tiny_llama(std=0.2), LoraConfig(r=2, target_modules="all-linear"))
    for name, param in model.named_parameters():  # with B = 0 and frozen, the gradient of every A is exactly zero
        param.requires_grad = "lora_A" in name
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    step = bs.defense_gradient(model, EXACT, align=ALIGN, harmful=HARMFUL)
    assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)
