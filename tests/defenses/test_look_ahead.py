"""Booster with several steps, the look-ahead, gradient ascent, CTRAP and SAM against plain autograd."""

from functools import partial

import pytest
import torch
from naive_reference import attacked, gradient, loss, plus, sft, trainable, walked
from test_closed_form import batch as quadratic_batch
from test_closed_form import setting
from test_naive_reference import MODELS, build

import boostershot as bs
from batches import random_batch, relative_difference
from tiny import tiny_gpt2

ALIGN, HARMFUL, GENERAL = (random_batch(seed=seed) for seed in (1, 2, 3))
LAM, ALPHA, STEPS = 2.0, 0.3, 3

every_model = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
every_kind = pytest.mark.parametrize("name", MODELS)


def some(batch, rows: slice):
    return {key: value[rows] for key, value in batch.items()}


THIRDS = [some(HARMFUL, rows) for rows in (slice(0, 2), slice(2, 5), slice(5, 8))]
BATCHES = {"same": [HARMFUL] * STEPS, "fresh": THIRDS}


def assert_is(model, defense, value, expected, tolerance, **metrics):
    step = bs.defense_gradient(model, defense, align=ALIGN, harmful=HARMFUL, general=GENERAL)
    assert step.gradient.keys() == expected.keys()
    assert relative_difference(list(step.gradient.values()), list(expected.values())) < tolerance
    assert step.loss == pytest.approx(value, rel=tolerance)
    for name, metric in metrics.items():
        assert step.metrics[name] == pytest.approx(metric, rel=tolerance, abs=tolerance)


@every_model
@every_kind
@pytest.mark.parametrize("inner", BATCHES)
def test_booster_and_lookahead_of_three_steps(name, lora, inner):
    model, tolerance = build(name, lora), MODELS[name][2]
    params, batches = trainable(model), BATCHES[inner]
    f, f_gradient = sft(model, ALIGN)
    objective = partial(loss, model, batch=batches[0])  # at both ends of the walk: of one batch
    h, h_gradient = gradient(objective, params)
    h_moved, h_moved_gradient = gradient(objective, attacked(model, params, batches, ALPHA))

    booster = bs.Booster(lam=LAM, alpha=ALPHA, steps=STEPS, inner=inner)
    expected = plus(f_gradient, plus(h_gradient, h_moved_gradient, -1.0), LAM)
    reduction = {"harmful_loss": h, "harmful_loss_moved": h_moved, "harmful_loss_reduction": h - h_moved}
    assert_is(model, booster, f + LAM * (h - h_moved), expected, tolerance, **reduction)

    lookahead = bs.Lookahead(lam=LAM, alpha=ALPHA, steps=STEPS, inner=inner, bound=None)
    expected = plus(f_gradient, h_moved_gradient, -LAM)
    assert_is(model, lookahead, f - LAM * h_moved, expected, tolerance, **reduction)


def test_the_walks_differ():
    # Three steps on one batch, one each on three, and a single one of three lengths end in different places.
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    walks = [(ALPHA, 3, "same"), (ALPHA, 3, "fresh"), (3 * ALPHA, 1, "same")]
    steps = [bs.Booster(lam=LAM, alpha=alpha, steps=steps, inner=inner) for alpha, steps, inner in walks]
    ends = [list(bs.defense_gradient(model, one, align=ALIGN, harmful=HARMFUL).gradient.values()) for one in steps]
    assert min(relative_difference(a, b) for a in ends for b in ends if a is not b) > 0.01


@pytest.mark.parametrize("inner", BATCHES)
def test_one_step_is_booster_bit_for_bit(inner):
    model = tiny_gpt2(std=0.2, dropout=0.3)
    one = bs.defense_gradient(model, bs.Booster(lam=LAM, alpha=ALPHA, inner=inner), align=ALIGN, harmful=HARMFUL)
    booster = bs.defense_gradient(model, bs.Booster(lam=LAM, alpha=ALPHA), align=ALIGN, harmful=HARMFUL)
    assert (one.loss, one.metrics) == (booster.loss, booster.metrics)
    assert all(torch.equal(one.gradient[name], booster.gradient[name]) for name in booster.gradient)


@pytest.mark.parametrize("kind", [bs.Booster, bs.Lookahead, partial(bs.CTRAP, token=7)])
def test_too_few_harmful_rows_for_fresh_steps(kind):
    defense = kind(alpha=ALPHA, steps=3, inner="fresh")
    with pytest.raises(ValueError, match=r"^this defence reads 3 batches of harmful rows, and there are 2 rows$"):
        bs.defense_gradient(tiny_gpt2(), defense, align=ALIGN, harmful=some(HARMFUL, slice(2)), general=GENERAL)


@every_model
@every_kind
def test_lookahead_is_booster_without_its_gradient_at_home(name, lora):
    model, tolerance = build(name, lora), MODELS[name][2]
    booster = bs.defense_gradient(model, bs.Booster(lam=LAM, alpha=ALPHA), align=ALIGN, harmful=HARMFUL)
    h, h_gradient = gradient(partial(loss, model, batch=HARMFUL), trainable(model))
    expected = plus(booster.gradient, h_gradient, -LAM)
    assert_is(model, bs.Lookahead(lam=LAM, alpha=ALPHA, bound=None), booster.loss - LAM * h, expected, tolerance)


@every_model
@every_kind
def test_gradient_ascent(name, lora):
    model, tolerance = build(name, lora), MODELS[name][2]
    f, f_gradient = sft(model, ALIGN)
    h, h_gradient = gradient(partial(loss, model, batch=HARMFUL), trainable(model))
    expected = plus(f_gradient, h_gradient, -LAM)
    ascent = bs.GradientAscent(lam=LAM, bound=h + 1)
    assert_is(model, ascent, f - LAM * h, expected, tolerance, harmful_loss=h, alignment_loss=f)


@pytest.mark.parametrize("bound", [0.5, 100.0])
def test_above_the_bound_the_harmful_loss_is_a_constant(bound):
    model = tiny_gpt2(std=0.2)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    for defense in (bs.GradientAscent(lam=LAM, bound=bound), bs.Lookahead(lam=LAM, alpha=ALPHA, bound=bound)):
        step = bs.defense_gradient(model, defense, align=ALIGN, harmful=HARMFUL)
        loss = step.metrics.get("harmful_loss_moved", step.metrics["harmful_loss"])  # told as it is
        assert 1 < loss < 99
        assert step.loss == pytest.approx(sft.loss - LAM * min(loss, bound))
        same = [torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient]
        assert all(same) if loss > bound else not any(same)


@pytest.mark.parametrize("kind", [bs.GradientAscent, partial(bs.Lookahead, alpha=ALPHA)], ids=["ascent", "lookahead"])
def test_training_diverges_without_the_bound_and_not_with_it(kind):
    losses = {}
    for bound in (None, 8.0):
        model, defense = tiny_gpt2(std=0.2), kind(lam=LAM, bound=bound)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(40):
            step = bs.defense_gradient(model, defense, align=ALIGN, harmful=HARMFUL)
            for name, param in model.named_parameters():
                param.grad = step.gradient.get(name)
            optimizer.step()
        losses[bound] = step.metrics["harmful_loss"], step.metrics["alignment_loss"]
    assert losses[None][0] > 5 * 8.0
    assert losses[8.0][0] < 2 * 8.0 and losses[8.0][1] < 0.5


@every_model
@every_kind
@pytest.mark.parametrize("inner", BATCHES)
def test_ctrap(name, lora, inner):
    model, tolerance, token = build(name, lora), MODELS[name][2], 7
    f, f_gradient = sft(model, ALIGN)
    collapsing = {**GENERAL, "labels": torch.where(GENERAL["labels"] == -100, -100, token)}
    moved = attacked(model, trainable(model), BATCHES[inner], ALPHA)
    collapse, collapse_gradient = gradient(partial(loss, model, batch=collapsing), moved)
    defense = bs.CTRAP(lam=LAM, alpha=ALPHA, token=token, steps=STEPS, inner=inner)
    expected = plus(f_gradient, collapse_gradient, LAM)
    assert_is(model, defense, f + LAM * collapse, expected, tolerance, collapse_loss=collapse, alignment_loss=f)


def test_the_token_of_ctrap_is_the_end_of_sequence_unless_given():
    model = tiny_gpt2(std=0.2)
    batches = {"align": ALIGN, "harmful": HARMFUL, "general": GENERAL}
    with pytest.raises(ValueError, match="ctrap: the model's configuration names no end-of-sequence token"):
        bs.defense_gradient(model, bs.CTRAP(alpha=ALPHA), **batches)
    given = bs.defense_gradient(model, bs.CTRAP(alpha=ALPHA, token=9), **batches)
    for token in (9, [9, 4]):
        model.config.eos_token_id = token
        assert bs.defense_gradient(model, bs.CTRAP(alpha=ALPHA), **batches).loss == given.loss
    with pytest.raises(ValueError, match="ctrap: token is 128; expected one of this model's 128"):
        bs.defense_gradient(model, bs.CTRAP(alpha=ALPHA, token=128), **batches)


@every_model
@every_kind
def test_sam(name, lora):
    model, tolerance = build(name, lora), MODELS[name][2]
    params, objective = trainable(model), partial(loss, model, batch=ALIGN)
    f, uphill = gradient(objective, params)
    f_moved, expected = gradient(objective, walked(params, uphill, 0.3))
    assert_is(model, bs.SAM(rho=0.3), f_moved, expected, tolerance, loss_at_home=f)


def test_sam_on_a_quadratic():
    oracle, w, align, harmful = setting(torch.float64)
    step = bs.SAM(rho=0.7).step(oracle, quadratic_batch(align, harmful))
    there = w + 0.7 * (align @ w) / (align @ w).norm()
    torch.testing.assert_close(torch.cat(step.gradient.tensors()), align @ there, rtol=1e-13, atol=1e-13)
    assert step.loss == pytest.approx((0.5 * there @ align @ there).item(), rel=1e-13)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rho": -1.0}, "sam: rho is -1.0; expected a finite number, 0 or more"),
        ({"rho_per_weight": float("nan")}, "sam: rho_per_weight is nan"),
        ({}, "sam: takes exactly one of rho and rho_per_weight"),
        ({"rho": 1.0, "rho_per_weight": 1.0}, "sam: takes exactly one of rho and rho_per_weight"),
    ],
)
def test_sam_names_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        bs.SAM(**values)


def test_of_a_zero_radius_sam_is_its_align_and_needs_one_pass():
    model = tiny_gpt2(std=0.2)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    for defense in (bs.SAM(rho=0.0), bs.SAM(rho_per_weight=0.0)):
        step = bs.defense_gradient(model, defense, align=ALIGN)
        assert defense.passes == 1
        assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)
