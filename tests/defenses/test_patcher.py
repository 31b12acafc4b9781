"""Patcher against plain autograd, and its rounds: what is drawn, kept and counted."""

import math

import naive_reference
import pytest
import torch

import boostershot as bs
from batches import random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from tiny import tiny_gpt2, tiny_llama

# GPT-2 computes in float64 throughout; transformers' Llama has its norms and rotations in float32 at any dtype.
MODELS = {"gpt2": (tiny_gpt2, 1e-12), "llama": (tiny_llama, 1e-6)}
ALIGN, HARMFUL = random_batch(seed=1), random_batch(seed=2)
ROWS = Batch(align=Rows.of(ALIGN), harmful=Rows.of(HARMFUL))


def step_at(model, defense, step, tensors):
    oracle = Oracle(model, step=step, tensors=tensors)
    return defense.step(oracle, ROWS), oracle


def expected_gradient(model, delta, mix):
    """(1 - mix) grad f(w) + mix grad f(w + delta)."""
    here = naive_reference.trainable(model)
    there = {name: (p.detach() + delta[name]).requires_grad_() for name, p in here.items()}
    gradients = (
        torch.autograd.grad(naive_reference.loss(model, params, ALIGN), list(params.values()))
        for params in (here, there)
    )
    return [(1 - mix) * a + mix * b for a, b in zip(*gradients, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_one_normalised_step_agrees_with_plain_autograd(name):
    build, tolerance = MODELS[name]
    model = build(dtype=torch.float64, std=0.2)
    _, g = naive_reference.sft(model, HARMFUL)
    weights = sum(part.numel() for part in g.values())
    norm = torch.sqrt(sum(part.square().sum() for part in g.values()))
    delta = {name: -2e-3 * math.sqrt(weights) * part / norm for name, part in g.items()}  # lr is per weight
    patcher = bs.Patcher(mix=0.3, round=1, steps=(1,), lr=(2e-3,), optimizers=("normalized_sgd",), batches=1)
    step, _ = step_at(model, patcher, 0, {})
    assert relative_difference(step.gradient.tensors(), expected_gradient(model, delta, 0.3)) < tolerance
    assert step.metrics["delta_norm"] == pytest.approx(2e-3 * math.sqrt(weights))
    # It matters where f is taken, and how much of it.
    for other in (expected_gradient(model, delta, 0.4), naive_reference.sft(model, ALIGN)[1].values()):
        assert relative_difference(step.gradient.tensors(), list(other)) > 1e-3


def test_three_steps_go_over_two_batches_in_turn():
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    walked = naive_reference.trainable(model)
    for rows in (slice(0, 4), slice(4, 8), slice(0, 4)):
        h = naive_reference.loss(model, walked, {key: value[rows] for key, value in HARMFUL.items()})
        gradients = torch.autograd.grad(h, list(walked.values()))
        walked = {
            name: (p - 0.5 * g).detach().requires_grad_()
            for (name, p), g in zip(walked.items(), gradients, strict=True)
        }
    delta = {name: p - dict(model.named_parameters())[name].detach() for name, p in walked.items()}
    patcher = bs.Patcher(steps=(3,), lr=(0.5,), optimizers=("sgd",), batches=2)
    step, _ = step_at(model, patcher, 0, {})
    assert relative_difference(step.gradient.tensors(), expected_gradient(model, delta, 0.5)) < 1e-12


def test_a_round_keeps_its_delta_and_the_next_draws_anew():
    model, tensors = tiny_gpt2(std=0.2), {}
    patcher = bs.Patcher(round=3, steps=(2,), lr=(1e-3,), batches=2)
    passes, kept = 0.0, []
    for step in range(6):
        found, oracle = step_at(model, patcher, step, tensors)
        passes += oracle.passes
        kept.append({name: part.clone() for name, part in tensors.items()})
        assert ("attack_steps" in found.metrics) == (step in (0, 3))
        with torch.no_grad():  # the training goes on
            for param, part in zip(oracle.params, found.gradient.tensors(), strict=True):
                param.sub_(part, alpha=0.1)

    def same(a, b):
        return all(torch.equal(kept[a][name], kept[b][name]) for name in kept[a])

    assert same(0, 1) and same(0, 2) and same(3, 5) and not same(2, 3)
    assert passes == pytest.approx(6 * patcher.passes) == 6 * (2 + 2 / 3)


def test_each_round_draws_its_attacker_from_the_ranges():
    model = tiny_gpt2()
    patcher = bs.Patcher(steps=(5, 8), lr=(1e-5, 1e-3), optimizers=("adamw", "sgd"), adapter="drawn")
    draws = [patcher.draw(Oracle(model, seed=1, step=step)) for step in range(60)]
    assert {steps for _, steps in draws} == {5, 6, 7, 8}
    assert {attacker.optimizer for attacker, _ in draws} == {"adamw", "sgd"}
    rates = sorted(attacker.lr for attacker, _ in draws)
    assert 1e-5 <= rates[0] < 3e-5 and 3e-4 < rates[-1] <= 1e-3
    assert 5e-5 < rates[30] < 2e-4  # even in the logarithm: the middle is 1e-4
    assert {len(attacker.names) for attacker, _ in draws} == {14}  # half of 28 tensors
    assert len({attacker.names for attacker, _ in draws}) > 50
    assert patcher.draw(Oracle(model, seed=1, step=7)) == draws[7] != patcher.draw(Oracle(model, seed=2, step=7))


def test_a_drawn_half_moves_alone():
    model, tensors = tiny_gpt2(std=0.2), {}
    patcher = bs.Patcher(steps=(2,), lr=(1e-3,), optimizers=("normalized_sgd",), adapter="drawn", batches=1)
    step, oracle = step_at(model, patcher, 0, tensors)
    attacker, _ = patcher.draw(oracle)
    assert {name.split("/")[-1] for name in tensors} == attacker.names
    assert attacker.lr == pytest.approx(1e-3 * math.sqrt(attacker.weights(oracle)))
    assert 0 < step.metrics["delta_norm"] <= 2 * attacker.lr * (1 + 1e-6)


@pytest.mark.parametrize("patcher", [bs.Patcher(mix=0), bs.Patcher(round=4, warmup_rounds=2)], ids=["mix 0", "warm-up"])
def test_no_share_and_the_warm_up_are_sft_bit_for_bit(patcher):
    model = tiny_llama(std=0.2)
    step = patcher.step(Oracle(model, step=7), Batch(align=Rows.of(ALIGN)))
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    assert all(torch.equal(a, b) for a, b in zip(step.gradient.tensors(), sft.gradient.values(), strict=True))
    assert step.loss == sft.loss


@pytest.mark.parametrize("step", [8, 9], ids=["a round's first step", "a step inside it, for want of a delta"])
def test_after_the_warm_up_there_is_an_attack(step):
    found, _ = step_at(tiny_gpt2(), bs.Patcher(round=4, warmup_rounds=2, steps=(1,)), step, {})
    assert found.metrics["delta_norm"] > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mix": 1.5}, "mix is 1.5"),
        ({"mix": -0.5}, "mix is -0.5"),
        ({"round": 0}, "round is 0"),
        ({"steps": (0,)}, "steps is 0"),
        ({"steps": ()}, r"steps is \[\]"),
        ({"steps": (5, 2)}, r"steps is \[5, 2\]"),
        ({"lr": (1e-5, 1e-4, 1e-3)}, "lr is "),
        ({"lr": (-1e-5,)}, "lr is -1e-05"),
        ({"lr": (0.0, 1e-4)}, "lr begins at 0"),
        ({"optimizers": ()}, "optimizers is empty"),
        ({"batches": 0}, "batches is 0"),
        ({"warmup_rounds": -1}, "warmup_rounds is -1"),
    ],
)
def test_values_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=f"patcher: {message}"):
        bs.Patcher(**values)


@pytest.mark.parametrize("around", ["sam", "antibody", "patcher"])
def test_a_delta_drawn_from_w_is_refused_where_the_step_is_taken_elsewhere(around):
    build = {
        "sam": lambda align: bs.SAM(rho=0.1, align=align),
        "antibody": lambda align: bs.Antibody(alpha=0.1, align=align),
        "patcher": lambda align: bs.Patcher(align=align),
    }[around]
    with pytest.raises(ValueError, match="align has a delta that is drawn from w, and"):
        build(bs.Patcher())
    build(bs.Patcher(mix=0.0))
    bs.Booster(alpha=0.1, align=bs.Patcher())
