"""Sums of terms, and what they share: the same result as apart, in fewer passes."""

import pytest
import torch

import boostershot as bs
from batches import random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses import Defense
from tiny import tiny_gpt2

ROLES = {role: random_batch(seed=i) for i, role in enumerate(("align", "harmful", "general"), 1)}
TERMS = {
    "booster": bs.Booster(lam=5, alpha=0.1),
    "ascent": bs.GradientAscent(lam=0.5, bound=None),
    "lookahead": bs.Lookahead(lam=2, alpha=0.3, bound=None),
    "ctrap": bs.CTRAP(lam=0.5, alpha=0.1, token=4),
}
WEIGHTS = {"booster": 0.5, "lookahead": 3.0}


def taken(defense: Defense, model=None):
    """The gradient and the oracle after one step of it."""
    oracle = Oracle(model or tiny_gpt2(dtype=torch.float64, std=0.2))
    step = defense.step(oracle, Batch(**{role: Rows.of(rows) for role, rows in ROLES.items()}))
    return step, oracle


def difference(actual, expected) -> float:
    return relative_difference(actual.gradient.tensors(), expected.gradient.tensors())


@pytest.mark.parametrize("align", [bs.SFT(), bs.Vaccine(rho=2.0), bs.Booster(lam=1, alpha=0.2)])
def test_a_sum_is_the_sum_of_its_parts(align):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    expected, _ = taken(align, model)
    for label, term in TERMS.items():
        part = taken(term, model)[0] - taken(bs.SFT(), model)[0]
        expected = expected + WEIGHTS.get(label, 1.0) * part
    step, _ = taken(bs.Sum(TERMS, WEIGHTS, align=align), model)
    assert difference(step, expected) < 1e-12
    assert step.loss == pytest.approx(expected.loss, rel=1e-12)


NESTED = bs.Booster(lam=5, alpha=0.1, align=bs.GradientAscent(lam=0.5, bound=None, align=bs.Vaccine(rho=2.0)))


def test_regularisers_nested_by_align_are_the_same_sum():
    terms = {label: TERMS[label] for label in ("booster", "ascent")}
    flat = bs.Sum(terms, align=bs.Vaccine(rho=2.0))
    (nested, one), (summed, other) = taken(NESTED), taken(flat)
    assert difference(nested, summed) < 1e-12
    assert nested.loss == pytest.approx(summed.loss, rel=1e-12)
    assert (one.passes, NESTED.passes) == (other.passes, flat.passes)


@pytest.mark.parametrize(
    ("defense", "shared", "unshared"),
    [
        (bs.Sum(TERMS), 5, 8),  # h once for four terms; three ends of walks; f
        (NESTED, 4, 5),
        (bs.Sum({"a": bs.Sum(TERMS), "b": bs.Booster(lam=1, alpha=0.2)}, align=bs.SAM(rho=0.1)), 7, 11),
        (bs.Booster(lam=1, alpha=0.2, align=bs.SAM(rho=0.1, align=TERMS["booster"])), 7, 8),
        (bs.Antibody(alpha=0.2, align=TERMS["booster"]), 7, 8),
    ],
    ids=["sum", "nested", "sum of sums on sam", "sam of booster", "antibody of booster"],
)
def test_shared_gradients_are_computed_once_and_change_nothing(monkeypatch, defense, shared, unshared):
    step, oracle = taken(defense)
    assert oracle.passes == shared == pytest.approx(defense.passes)
    monkeypatch.setattr(Oracle, "shared_gradient", lambda self, batch, role: self.gradient(batch.need(role)))
    apart, oracle = taken(defense)
    assert oracle.passes == unshared
    assert step.loss == apart.loss
    assert step.metrics == apart.metrics
    pairs = zip(step.gradient.tensors(), apart.gradient.tensors(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_nothing_is_kept_from_a_step_that_failed():
    oracle = Oracle(tiny_gpt2(dtype=torch.float64, std=0.2))
    with pytest.raises(ValueError, match="needs general rows"):  # in the last term, for which h is kept
        bs.Sum(TERMS).step(oracle, Batch(align=Rows.of(ROLES["align"]), harmful=Rows.of(random_batch(seed=9))))
    step = bs.Sum(TERMS).step(oracle, Batch(**{role: Rows.of(rows) for role, rows in ROLES.items()}))
    assert difference(step, taken(bs.Sum(TERMS), oracle.model)[0]) < 1e-12


def test_a_term_without_weight_is_not_computed():
    model = tiny_gpt2(std=0.2)
    weightless = bs.Sum(TERMS, dict.fromkeys(TERMS, 0.0))
    assert (weightless.reads(), weightless.passes) == ({"align": 1}, 1)
    step = bs.defense_gradient(model, weightless, align=ROLES["align"])
    sft = bs.defense_gradient(model, bs.SFT(), align=ROLES["align"])
    assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)
    assert bs.Sum(TERMS, {"ctrap": 0.0}).reads() == {"align": 1, "harmful": 1}
    assert bs.Sum({**TERMS, "ctrap": bs.CTRAP(lam=0.0, alpha=0.1)}).passes == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"terms": {}}, "sum: terms is empty; expected at least one label with a method"),
        ({"terms": {"x": bs.SFT()}}, "sum: terms.x is SFT, which has no term of its own; use it as `align`"),
        ({"terms": {"x": bs.Vaccine()}}, "sum: terms.x is Vaccine, which has no term of its own"),
        ({"terms": {"x": NESTED}}, "sum: terms.x has an `align`; give it to the sum"),
        ({"terms": TERMS, "weights": {"boost": 1}}, "sum: weights.boost belongs to no term; the terms are booster"),
        ({"terms": TERMS, "weights": {"booster": -1.0}}, "sum: weights.booster is -1.0; expected a finite number"),
        ({"terms": TERMS, "weights": {"booster": float("inf")}}, "sum: weights.booster is inf"),
    ],
)
def test_a_sum_names_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        bs.Sum(**values)
