"""The controller that steers lam or alpha to a harmful loss reduction on dev rows."""

import json
import math
from functools import partial

import pytest
import torch
from naive_reference import attacked, gradient, loss, trainable
from test_closed_form import QuadraticOracle, setting

import boostershot as bs
from batches import random_batch
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses import TargetReduction
from tiny import tiny_gpt2

ROLES = {role: random_batch(seed=i) for i, role in enumerate(("align", "harmful", "dev"), 1)}
LAM, ALPHA = 5.0, 0.1


class Quadratic(QuadraticOracle):
    """Also the loss alone."""

    def loss(self, rows):
        w = torch.cat([param.detach() for param in self.params])
        self.passes += 1 / 3
        return 0.5 * (w @ rows @ w).item()


def run(schedule: TargetReduction, curvature, steps: int, lam: float = LAM):
    """What each step logs, where h on dev rows is curvature(the step before) / 2 |w|^2, and the state after it."""
    plant, w, align, harmful = setting(torch.float64)
    booster, state, logs = bs.Booster(lam=lam, alpha=ALPHA, schedule=schedule), {}, [{"lam": lam, "alpha": ALPHA}]
    for step in range(steps):
        oracle = Quadratic(plant.model, step=step, state=json.loads(json.dumps(state)))
        dev = curvature(logs[-1]) * torch.eye(7, dtype=torch.float64)
        logs.append(booster.step(oracle, Batch(align=align, harmful=harmful, dev=dev)).metrics)
        state = oracle.state
    return logs[1:], ALPHA * w.norm().item() - ALPHA**2 / 2


@pytest.mark.parametrize("start", [0.1, 5.0, 40.0])
def test_lam_finds_the_target(start):
    # On curvature 1 / lam one step of length alpha takes (alpha |w| - alpha^2 / 2) / lam away.
    logs, taken = run(TargetReduction(0.05, every=1), lambda before: 1 / before["lam"], 100, lam=start)
    assert logs[-1]["lam"] == pytest.approx(taken / 0.05, rel=1e-6)
    assert logs[-1]["dev_harmful_loss_reduction"] == pytest.approx(0.05, rel=1e-6)


def test_alpha_finds_the_target():
    # The measuring step keeps the length that is given, whatever alpha has become.
    schedule = TargetReduction(0.05, every=1, steer="alpha")
    logs, taken = run(schedule, lambda before: 0.1 * ALPHA / before["alpha"], 100)
    assert logs[-1]["alpha"] == pytest.approx(ALPHA * 0.1 * taken / 0.05, rel=1e-6)
    assert "lam" not in logs[-1]


@pytest.mark.parametrize(("curvature", "limit"), [(1e6, 20.0), (1e-6, 1 / 20)])
def test_the_factor_stays_within_its_limits(curvature, limit):
    logs, _ = run(TargetReduction(0.05, every=1, widest=20.0), lambda _: curvature, 15)
    assert logs[-1]["lam"] == pytest.approx(LAM * limit, rel=1e-12)


def test_it_measures_at_multiples_of_every_only():
    booster, state = bs.Booster(lam=LAM, alpha=ALPHA, schedule=TargetReduction(0.05, every=3, rate=0.01)), {}
    model, factors = tiny_gpt2(std=0.2), []
    rows = {role: Rows.of(batch) for role, batch in ROLES.items()}
    for step in range(7):
        oracle = Oracle(model, step=step, state=state)
        measuring = step % 3 == 0
        if measuring:
            with pytest.raises(ValueError, match="needs dev rows"):
                booster.step(Oracle(model, step=step, state={}), Batch(rows["align"], rows["harmful"]))
        batch = Batch(rows["align"], rows["harmful"], dev=rows["dev"] if measuring else None)
        metrics = booster.step(oracle, batch).metrics
        assert ("dev_harmful_loss_reduction" in metrics) == measuring
        assert oracle.passes == pytest.approx(3 + 4 / 3 if measuring else 3)
        factors.append(metrics["lam"] / LAM)
    assert booster.passes == pytest.approx(3 + 4 / 9)
    assert [step for step in range(1, 7) if factors[step] != factors[step - 1]] == [3, 6]


@pytest.mark.parametrize("steer", ["lam", "alpha"])
def test_what_is_measured_and_what_comes_of_it(steer):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    objective, params = partial(loss, model, batch=ROLES["dev"]), trainable(model)
    reduction = gradient(objective, params)[0] - gradient(objective, attacked(model, params, [ROLES["dev"]], ALPHA))[0]
    target = 0.8 * reduction
    schedule = TargetReduction(target, rate=0.4, steer=steer)
    step = bs.defense_gradient(model, bs.Booster(lam=LAM, alpha=ALPHA, schedule=schedule), **ROLES)
    factor = math.exp(0.4 * (reduction / target - 1))
    assert step.metrics["dev_harmful_loss_reduction"] == pytest.approx(reduction, rel=1e-10)
    assert step.metrics[steer] == pytest.approx(factor * {"lam": LAM, "alpha": ALPHA}[steer], rel=1e-10)
    lam, alpha = (factor * LAM, ALPHA) if steer == "lam" else (LAM, factor * ALPHA)
    steered = bs.defense_gradient(model, bs.Booster(lam=lam, alpha=alpha), **ROLES)
    assert all(torch.allclose(step.gradient[name], steered.gradient[name], rtol=1e-9) for name in steered.gradient)


def test_within_sam_it_measures_once_a_step():
    booster = bs.Booster(lam=LAM, alpha=ALPHA, schedule=TargetReduction(0.05))
    once, twice = (Oracle(tiny_gpt2(std=0.2)) for _ in range(2))
    batch = Batch(**{role: Rows.of(rows) for role, rows in ROLES.items()})
    booster.step(once, batch)
    bs.SAM(rho=0.1, align=booster).step(twice, batch)
    assert once.state == twice.state


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_reduction": 0.0}, "schedule: target_reduction is 0; expected a number above 0"),
        ({"target_reduction": -0.1}, "schedule: target_reduction is -0.1; expected a finite number, 0 or more"),
        ({"target_reduction": 0.1, "rate": float("nan")}, "schedule: rate is nan"),
        ({"target_reduction": 0.1, "every": 0}, "schedule: every is 0; expected 1 or more"),
        ({"target_reduction": 0.1, "widest": 0.5}, "schedule: widest is 0.5; expected 1 or more"),
    ],
)
def test_a_schedule_names_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        TargetReduction(**values)


def test_there_must_be_a_lam_to_steer():
    with pytest.raises(ValueError, match="booster: schedule is given and lam is 0; expected a lam above 0 to steer"):
        bs.Booster(lam=0.0, alpha=0.1, schedule=TargetReduction(0.1))


def test_one_reading_moves_the_factor_by_at_most_the_rate_either_way():
    schedule = TargetReduction(target_reduction=0.1, rate=0.3)
    assert schedule.next_factor(2.0, 100.0) == pytest.approx(2.0 * math.exp(0.3))
    assert schedule.next_factor(2.0, 0.0) == pytest.approx(2.0 * math.exp(-0.3))
    assert schedule.next_factor(2.0, 0.11) == pytest.approx(2.0 * math.exp(0.03))
