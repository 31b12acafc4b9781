"""`defense_gradient`: what it returns, and the errors that it documents."""

import pytest
import torch

import boostershot as bs
from batches import random_batch
from tiny import tiny_gpt2, tiny_llama

ALIGN, HARMFUL = random_batch(seed=1), random_batch(seed=2)
METRICS = {
    "alignment_loss",
    "harmful_loss",
    "harmful_loss_moved",
    "harmful_loss_reduction",
    "harmful_gradient_norm",
}


def test_it_returns_the_trainable_parameters_by_name():
    model = tiny_llama()
    model.model.norm.weight.requires_grad = False
    step = bs.defense_gradient(model, bs.Booster(lam=5, alpha=0.1), align=ALIGN, harmful=HARMFUL)
    expected = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    assert {name: part.shape for name, part in step.gradient.items()} == expected
    assert isinstance(step.loss, float)
    assert set(step.metrics) == METRICS
    assert all(isinstance(value, float) for value in step.metrics.values())


def test_a_scaled_step_is_scaled_in_the_result():
    class Half(bs.SFT):
        def step(self, oracle, batch):
            return 0.5 * super().step(oracle, batch)

    model = tiny_llama()
    whole = bs.defense_gradient(model, bs.SFT(), align=ALIGN).gradient
    half = bs.defense_gradient(model, Half(), align=ALIGN).gradient
    assert all(torch.equal(half[name], 0.5 * whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"harmful": None}, "needs harmful rows"),
        ({"align": {}}, "no 'input_ids'"),
        ({"align": {k: v for k, v in ALIGN.items() if k != "labels"}}, "no 'labels'"),
        ({"harmful": {**HARMFUL, "labels": HARMFUL["labels"][:, 1:]}}, r"one shape \[rows, time\]"),
        ({"harmful": {key: value[0] for key, value in HARMFUL.items()}}, r"one shape \[rows, time\]"),
        ({"align": {key: value[:0] for key, value in ALIGN.items()}}, "no rows"),
        ({"align": {**ALIGN, "labels": torch.full_like(ALIGN["labels"], -100)}}, "no supervised token.*align row 0"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"micro_batch_size": -1}, "micro_batch_size is -1"),
    ],
)
def test_documented_errors(change, message):
    given = {"align": ALIGN, "harmful": HARMFUL, **change}
    with pytest.raises(ValueError, match=message):
        bs.defense_gradient(tiny_gpt2(), bs.Booster(lam=5, alpha=0.1), **given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused_naming_the_parameter(dtype):
    model = tiny_llama()
    model.model.layers[1].mlp.down_proj.to(dtype)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.down_proj\.weight is trainable in torch"):
        bs.defense_gradient(model, bs.SFT(), align=ALIGN)


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        bs.defense_gradient(tiny_llama().requires_grad_(False), bs.SFT(), align=ALIGN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one"),
        ({"alpha": 0.1, "alpha_per_weight": 1e-5}, "exactly one"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha_per_weight": float("inf")}, "alpha_per_weight is inf"),
        ({"alpha": 0.1, "lam": -1.0}, "lam is -1.0"),
    ],
)
def test_booster_refuses_values_without_meaning(values, message):
    with pytest.raises(ValueError, match=message):
        bs.Booster(**values)


def test_a_loop_hands_on_what_a_defense_keeps():
    # CRL's divergence from the start is 0 as long as the start is where the model stands.
    model, state, tensors = tiny_gpt2(std=0.2), {}, {}
    defense = bs.CRL(benign=0, harmful=0, kl=1.0)
    rows = {"align": ALIGN, "harmful": HARMFUL, "general": random_batch(seed=3)}
    kept = {"state": state, "tensors": tensors}
    first = bs.defense_gradient(model, defense, **rows, **kept)
    with torch.no_grad():
        for name, param in model.named_parameters():
            param -= 0.1 * first.gradient[name]
    there = bs.defense_gradient(model, defense, **rows, step=1, **kept)
    afresh = bs.defense_gradient(model, defense, **rows, step=1)
    assert there.metrics["general_divergence"] > 1e-4
    assert afresh.metrics["general_divergence"] == pytest.approx(0.0, abs=1e-6)


def test_what_the_optimiser_should_leave_is_named():
    model = tiny_llama()
    step = bs.defense_gradient(model, bs.TVaccine(layers=1), align=ALIGN, harmful=HARMFUL)
    assert step.untouched
    assert all(not step.gradient[name].any() for name in step.untouched)
    assert not bs.defense_gradient(model, bs.SFT(), align=ALIGN).untouched


def test_a_callers_autocast_does_not_reuse_casts_of_other_weights():
    model, booster = tiny_llama(std=0.2), bs.Booster(lam=1, alpha=0.5)
    alone = bs.defense_gradient(model, booster, align=ALIGN, harmful=HARMFUL)
    with torch.autocast("cpu", torch.bfloat16):
        within = bs.defense_gradient(model, booster, align=ALIGN, harmful=HARMFUL)
    expected = alone.metrics["harmful_loss_reduction"]
    assert within.metrics["harmful_loss_reduction"] == pytest.approx(expected, rel=0.1)


def test_booster_is_frozen():
    with pytest.raises(AttributeError):
        bs.Booster(alpha=0.1).lam = 3.0  # type: ignore[misc]
