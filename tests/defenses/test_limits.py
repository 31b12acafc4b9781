"""Where a method must become something simpler: a weight or a length of 0, no harmful gradient, alpha -> 0."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import boostershot as bs
from batches import random_batch, relative_difference
from tiny import tiny_gpt2, tiny_llama

ALIGN, HARMFUL = random_batch(seed=1), random_batch(seed=2)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize(("lam", "alpha"), [(0.0, 0.1), (5.0, 0.0), (0.0, 0.0)])
def test_no_weight_or_no_length_is_sft_bit_for_bit(build, lam, alpha):
    model = build(std=0.2)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    step = bs.defense_gradient(model, bs.Booster(lam=lam, alpha=alpha), align=ALIGN, harmful=HARMFUL)
    assert step.loss == sft.loss
    assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)


def test_lam_and_alpha_do_change_the_gradient():
    # The counterpart: the test above would pass for a Booster that does nothing.
    model = tiny_llama(std=0.2)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    step = bs.defense_gradient(model, bs.Booster(lam=5, alpha=0.1), align=ALIGN, harmful=HARMFUL)
    assert relative_difference(list(step.gradient.values()), list(sft.gradient.values())) > 0.01
    assert step.metrics["harmful_loss_reduction"] > 0


@pytest.mark.parametrize(
    "defense",
    [
        bs.Booster(lam=0, alpha=0.1),
        bs.Vaccine(rho=0),
        bs.TVaccine(rho=0, layers=1),
        bs.RepNoise(alpha=0, beta=0),
        bs.TAR(lam=0, retain=0, lr=1e-3),
        bs.Lookahead(lam=0, alpha=0.1),
        bs.SAM(rho=0),
        bs.GradientAscent(lam=0),
        bs.CTRAP(lam=0, alpha=0.1, token=4),
        bs.Antibody(lam=0, lam_refuse=0, alpha=0.1),
        bs.Antibody(lam_max=0, lam_refuse=0, alpha=0.1),
        bs.Patcher(mix=0),
        bs.CRL(benign=0, harmful=0, kl=0),
        bs.SEAM(unlearn=0, beta=0),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_with_every_weight_at_0_it_is_sft_in_what_it_does_and_needs(defense):
    model = tiny_gpt2(std=0.2, dropout=0.3)
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    step = bs.defense_gradient(model, defense, align=ALIGN)
    assert step.loss == sft.loss
    assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)
    assert (defense.cost, defense.reads(), defense.reads_layers) == (bs.SFT().cost, {"align": 1}, False)


def test_a_zero_harmful_gradient_gives_sft_and_stays_finite():
    # With B = 0 and frozen, the gradient of every A is exactly zero.
    model = get_peft_model(tiny_llama(std=0.2), LoraConfig(r=2, target_modules="all-linear"))
    for name, param in model.named_parameters():
        param.requires_grad = "lora_A" in name
    sft = bs.defense_gradient(model, bs.SFT(), align=ALIGN)
    step = bs.defense_gradient(model, bs.Booster(lam=5, alpha=0.1), align=ALIGN, harmful=HARMFUL)
    assert step.metrics["harmful_gradient_norm"] == 0.0
    assert all(torch.equal(step.gradient[name], sft.gradient[name]) for name in sft.gradient)
    assert step.loss == sft.loss


def test_the_reduction_per_length_tends_to_the_gradient_norm():
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    harmful = bs.defense_gradient(model, bs.SFT(), align=HARMFUL).gradient
    norm = torch.cat([part.flatten() for part in harmful.values()]).norm().item()
    errors = []
    for alpha in (1e-3, 1e-4, 1e-5):
        metrics = bs.defense_gradient(model, bs.Booster(lam=1, alpha=alpha), align=ALIGN, harmful=HARMFUL).metrics
        assert metrics["harmful_gradient_norm"] == pytest.approx(norm, rel=1e-12)
        errors.append(abs(metrics["harmful_loss_reduction"] / alpha - norm) / norm)
    assert errors[2] < 1e-4
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)  # the error is of first order in alpha
