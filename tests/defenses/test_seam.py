"""SEAM: the estimate of the cosine's gradient against a naive one and the exact one, and what precision does to it."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from naive_reference import gradient, loss, plus, trainable
from peft import LoraConfig, get_peft_model
from test_naive_reference import MODELS, build
from torch.nn.attention import SDPBackend, sdpa_kernel

import boostershot as bs
import naive_hidden
from batches import random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from tiny import tiny_gpt2

ALIGN, HARMFUL, GENERAL = (random_batch(seed=seed) for seed in (1, 2, 3))
NORMS = {"gpt2": "transformer.ln_f", "llama": "model.norm"}


def step_of(model, defense, harmful=HARMFUL, general=GENERAL):
    return bs.defense_gradient(model, defense, align=ALIGN, harmful=harmful, general=general)


def flat(params) -> torch.Tensor:
    return torch.cat([part.flatten() for part in params.values()])


def scaled(params, factor):
    return {name: factor * part for name, part in params.items()}


def naive_opposition(model, eps: float) -> tuple[float, dict[str, torch.Tensor]]:
    """The cosine, and its gradient by differences at the distance eps."""
    params, total = trainable(model), None
    sides = [partial(loss, model, batch=batch) for batch in (HARMFUL, GENERAL)]
    gradients = [gradient(side, params)[1] for side in sides]
    norms = [flat(one).norm() for one in gradients]
    units = [scaled(one, 1 / norm) for one, norm in zip(gradients, norms, strict=True)]
    cosine = flat(units[0]) @ flat(units[1])
    for i in (0, 1):
        across = plus(units[1 - i], units[i], -cosine)
        sine = flat(across).norm()
        moved = gradient(sides[i], {name: p.detach() for name, p in plus(params, across, eps / sine).items()})[1]
        part = scaled(plus(moved, gradients[i], -1.0), sine / (eps * norms[i]))
        total = part if total is None else plus(total, part)
    return cosine.item(), total


def exact_opposition(model) -> dict[str, torch.Tensor]:
    """The cosine's gradient by double backward."""

    def cosine(params):
        sides = []
        for batch in (HARMFUL, GENERAL):
            grads = torch.autograd.grad(loss(model, params, batch), list(params.values()), create_graph=True)
            sides.append(torch.cat([part.flatten() for part in grads]))
        return sides[0] @ sides[1] / (sides[0].norm() * sides[1].norm())

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        return gradient(cosine, trainable(model))[1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("unlearn", "beta"), [(0.7, 0.0), (0.0, 2.0), (0.7, 2.0)], ids=["ascent", "cosine", "both"])
def test_agrees_with_plain_autograd(name, lora, unlearn, beta):
    model, tolerance = build(name, lora), 1e-5 if name == "llama" else 1e-9
    norm, eps_per_weight = ("base_model.model." if lora else "") + NORMS[name], 1e-2

    def smooth(copy):
        lens = naive_hidden.lens_loss(copy, HARMFUL, norm)
        return loss(copy, dict(copy.named_parameters()), ALIGN) - unlearn * torch.log(1 + lens)

    value, expected = naive_hidden.gradient(model, smooth)
    cosine, opposed = naive_opposition(model, eps_per_weight * len(flat(expected)) ** 0.5)
    step = step_of(model, bs.SEAM(unlearn=unlearn, beta=beta, eps_per_weight=eps_per_weight))
    assert step.loss == pytest.approx(value + beta * cosine, rel=tolerance)
    expected = plus(expected, opposed, beta)
    assert relative_difference(list(step.gradient.values()), list(expected.values())) < tolerance


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_estimate_tends_to_the_exact_gradient(lora):
    model = build("gpt2", lora)
    exact = list(exact_opposition(model).values())
    sft = list(step_of(model, bs.SFT()).gradient.values())
    errors = []
    for eps_per_weight in (1e-5, 1e-6):
        step = step_of(model, bs.SEAM(unlearn=0, beta=1, eps_per_weight=eps_per_weight))
        opposed = [part - f for part, f in zip(step.gradient.values(), sft, strict=True)]
        errors.append(relative_difference(opposed, exact))
    assert errors[0] < 1e-2
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)  # the error is of first order in eps


def test_float32_is_enough_at_the_default_and_too_small_a_step_is_seen_in_the_log():
    model = build("gpt2", lora=False)
    exact = list(exact_opposition(model).values())

    def measured(model, eps_per_weight):
        step = bs.SEAM(unlearn=0, beta=1, eps_per_weight=eps_per_weight).term(
            Oracle(model), Batch(harmful=Rows.of(HARMFUL), general=Rows.of(GENERAL))
        )
        return relative_difference(step.gradient.tensors(), exact), step.metrics["realised_cosine"]

    error, realised = measured(model.float(), bs.SEAM().eps_per_weight)
    assert error < 0.05
    assert realised > 0.999
    error, realised = measured(model.float(), 1e-9)  # a step of a tenth of the last bit of most weights
    assert error > 0.5
    assert realised < 0.8


@pytest.mark.parametrize("kind", ["autocast", "frozen bfloat16"])
def test_half_precision_is_refused(kind):
    model, autocast = tiny_gpt2(), nullcontext
    if kind == "autocast":
        autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    else:
        model.transformer.wpe.requires_grad_(False).to(torch.bfloat16)
    batch = Batch(align=Rows.of(ALIGN), harmful=Rows.of(HARMFUL), general=Rows.of(GENERAL))
    with pytest.raises(ValueError, match=r"seam: the model computes in half precision.*bf16: false"):
        bs.SEAM().step(Oracle(model, autocast=autocast), batch)
    if kind == "autocast":
        bs.SEAM(beta=0).step(Oracle(model, autocast=autocast), batch)  # no difference of gradients, no harm


def test_parallel_or_missing_gradients_leave_the_rest_of_the_objective():
    model = tiny_gpt2(std=0.2)
    parallel = step_of(model, bs.SEAM(unlearn=0, beta=1), general=HARMFUL)
    assert parallel.metrics["gradient_cosine"] == pytest.approx(1, abs=1e-6)
    sft = step_of(model, bs.SFT())
    assert relative_difference(list(parallel.gradient.values()), list(sft.gradient.values())) < 1e-2

    adapted = get_peft_model(tiny_gpt2(std=0.2), LoraConfig(r=2, target_modules=["c_fc"], fan_in_fan_out=True))
    for name, param in adapted.named_parameters():  # with B = 0 and frozen, the gradient of every A is exactly zero
        param.requires_grad = "lora_A" in name
    step, sft = step_of(adapted, bs.SEAM(unlearn=0, beta=1)), step_of(adapted, bs.SFT())
    assert step.loss == sft.loss
    assert all(torch.equal(step.gradient[name], part) for name, part in sft.gradient.items())


def test_terms_without_weight_are_not_computed():
    for defense, passes, reads in (
        (bs.SEAM(unlearn=0, beta=0), 1, {"align"}),
        (bs.SEAM(beta=0), 2, {"align", "harmful"}),
        (bs.SEAM(unlearn=0), 5, {"align", "harmful", "general"}),
        (bs.SEAM(), 6, {"align", "harmful", "general"}),
    ):
        oracle = Oracle(tiny_gpt2())
        defense.step(oracle, Batch(align=Rows.of(ALIGN), harmful=Rows.of(HARMFUL), general=Rows.of(GENERAL)))
        assert oracle.passes == defense.passes == passes
        assert defense.reads().keys() == reads


def test_the_harmful_gradient_is_shared_with_booster():
    defense = bs.Booster(lam=5, alpha=0.1, align=bs.SEAM())
    oracle = Oracle(tiny_gpt2())
    defense.step(oracle, Batch(align=Rows.of(ALIGN), harmful=Rows.of(HARMFUL), general=Rows.of(GENERAL)))
    assert oracle.passes == defense.passes == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unlearn": -1.0}, "seam: unlearn is -1.0; expected a finite number, 0 or more"),
        ({"beta": float("inf")}, "seam: beta is inf; expected a finite number, 0 or more"),
        ({"eps_per_weight": 0.0}, "seam: eps_per_weight is 0.0; expected a number above 0"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        bs.SEAM(**values)
