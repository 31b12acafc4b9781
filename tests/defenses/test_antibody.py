"""Antibody's weight in closed form, its limits, and its whole step against plain autograd."""

from functools import partial

import pytest
import torch
from naive_reference import attacked, gradient, loss, plus, sft, trainable
from test_closed_form import batch as quadratic_batch
from test_closed_form import setting
from test_naive_reference import MODELS, build

import boostershot as bs
from batches import random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses import TargetReduction
from tiny import tiny_gpt2

ALIGN, HARMFUL = random_batch(seed=1), random_batch(seed=2)
ALPHA = 0.3


def dot(a, b) -> float:
    return sum((a[name] * b[name]).sum().item() for name in a)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("constant", [None, 4.0], ids=["closed form", "constant"])
def test_the_whole_step(name, lora, constant):
    model, tolerance, xi, lam_refuse = build(name, lora), MODELS[name][2], 0.7, 0.5
    params, harmful = trainable(model), partial(loss, model, batch=HARMFUL)
    moved = attacked(model, params, [HARMFUL], ALPHA)
    f, f_gradient = sft(model, ALIGN)
    h, h_gradient = gradient(harmful, params)
    h_moved, h_moved_gradient = gradient(harmful, moved)
    f_moved, f_moved_gradient = gradient(partial(loss, model, batch=ALIGN), moved)
    bracket = plus(h_gradient, h_moved_gradient, -1.0)
    lam = constant or xi - dot(bracket, f_gradient) / dot(bracket, bracket)
    assert 0 < lam < 10
    expected = plus(plus(f_gradient, bracket, lam), f_moved_gradient, lam_refuse)

    antibody = bs.Antibody(xi=xi, lam=constant, lam_refuse=lam_refuse, alpha=ALPHA)
    step = bs.defense_gradient(model, antibody, align=ALIGN, harmful=HARMFUL)
    assert relative_difference(list(step.gradient.values()), list(expected.values())) < tolerance
    assert step.loss == pytest.approx(f + lam * (h - h_moved) + lam_refuse * f_moved, rel=10 * tolerance)
    metrics = {
        "lam": lam,
        "alignment_loss": f,
        "harmful_loss": h,
        "harmful_loss_moved": h_moved,
        "harmful_loss_reduction": h - h_moved,
        "refusal_loss_moved": f_moved,
    }
    for key, value in metrics.items():
        assert step.metrics[key] == pytest.approx(value, rel=10 * tolerance)


def quadratic(align_factor: float, **values):
    """Antibody's gradient and lam, the bracket's gradient and f's, where f is `align_factor` times h."""
    oracle, w, _, harmful = setting(torch.float64)
    align = align_factor * harmful
    antibody = bs.Antibody(alpha=ALPHA, lam_refuse=0.0, **values)
    step = antibody.step(oracle, quadratic_batch(align, harmful))
    bracket = ALPHA * harmful @ (harmful @ w) / (harmful @ w).norm()
    return torch.cat(step.gradient.tensors()), step.metrics["lam"], bracket, align @ w


@pytest.mark.parametrize("xi", [0.1, 2.0])
@pytest.mark.parametrize("align_factor", [-0.5, -0.05, 0.01, 0.5])
def test_the_bracket_falls_at_the_rate_that_is_asked_for(xi, align_factor):
    direction, lam, bracket, f = quadratic(align_factor, xi=xi, lam_max=1e6)
    rate, needed = (bracket @ direction).item(), xi * (bracket @ bracket).item()
    assert rate >= needed * (1 - 1e-12)
    if lam > 0:  # and no more than that
        assert rate == pytest.approx(needed, rel=1e-12)
        assert lam == pytest.approx((xi - bracket @ f / (bracket @ bracket)).item(), rel=1e-12)
    else:
        assert torch.equal(direction, f)


def test_xi_0_takes_the_conflict_away_and_nothing_else():
    direction, lam, bracket, f = quadratic(-0.5, xi=0.0, lam_max=1e6)
    unit = bracket / bracket.norm()
    assert lam > 0
    torch.testing.assert_close(direction, f - (f @ unit) * unit, rtol=1e-12, atol=1e-12)  # a projection
    direction, lam, bracket, f = quadratic(0.5, xi=0.0)
    assert bracket @ f > 0
    assert lam == 0
    assert torch.equal(direction, f)


def test_the_weight_is_capped():
    _, free, _, _ = quadratic(-0.5, xi=0.1, lam_max=1e6)
    direction, lam, bracket, f = quadratic(-0.5, xi=0.1, lam_max=free / 2)
    assert lam == free / 2
    torch.testing.assert_close(direction, f + lam * bracket, rtol=1e-12, atol=1e-12)


def test_a_constant_weight_without_refusal_is_booster_bit_for_bit():
    model = tiny_gpt2(std=0.2, dropout=0.3)
    antibody = bs.Antibody(lam=5.0, lam_refuse=0.0, alpha=ALPHA)
    step = bs.defense_gradient(model, antibody, align=ALIGN, harmful=HARMFUL, micro_batch_size=3)
    booster = bs.Booster(lam=5.0, alpha=ALPHA)
    expected = bs.defense_gradient(model, booster, align=ALIGN, harmful=HARMFUL, micro_batch_size=3)
    assert antibody.cost == booster.cost
    assert step.loss == expected.loss
    assert step.metrics == {**expected.metrics, "lam": 5.0}
    assert all(torch.equal(step.gradient[name], expected.gradient[name]) for name in expected.gradient)


def test_a_flat_bracket_has_no_weight():
    # Of length 0 the bracket is 0; a weight of xi |grad s|^2 / |grad s|^2 would not be finite.
    model = tiny_gpt2(std=0.2)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    antibody = bs.Antibody(alpha=0.0, lam_refuse=0.0)
    step = bs.defense_gradient(model, antibody, align=ALIGN, harmful=HARMFUL)
    assert step.metrics["lam"] == 0
    assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)


def test_what_align_measures_is_told_of_the_home_weights():
    model, align = tiny_gpt2(std=0.2), bs.Vaccine(rho=2.0)
    home = bs.defense_gradient(model, align, align=ALIGN).metrics
    antibody = bs.Antibody(alpha=ALPHA, align=align)
    told = bs.defense_gradient(model, antibody, align=ALIGN, harmful=HARMFUL).metrics
    assert {key: told[key] for key in home} == home
    assert told["refusal_loss_moved"] != home["alignment_loss"]


@pytest.mark.parametrize(
    "align",
    [
        bs.Booster(alpha=ALPHA, schedule=TargetReduction(0.05, every=1)),
        bs.TVaccine(layers=1, importance_every=1, sample_every=1),
    ],
    ids=["schedule", "shares"],
)
def test_what_align_steers_by_is_measured_at_the_home_weights(align):
    alone, within = (Oracle(tiny_gpt2(std=0.2)) for _ in range(2))
    rows = {"align": Rows.of(ALIGN), "harmful": Rows.of(HARMFUL), "dev": Rows.of(random_batch(seed=3))}
    align.step(alone, Batch(**rows))
    bs.Antibody(alpha=ALPHA, align=align).step(within, Batch(**rows))
    assert alone.state and within.state == alone.state
