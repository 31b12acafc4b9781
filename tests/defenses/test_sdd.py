"""SDD is plain fine-tuning; what makes it is what its alignment rows answer."""

import torch

import boostershot as bs
from batches import random_batch
from tiny import tiny_gpt2


def test_it_is_sft_on_answers_beside_the_point():
    model, rows = tiny_gpt2(std=0.2), random_batch(seed=1)
    step, sft = (bs.defense_gradient(model, defense, align=rows) for defense in (bs.SDD(), bs.SFT()))
    assert step.loss == sft.loss
    assert all(torch.equal(step.gradient[name], part) for name, part in sft.gradient.items())
    assert bs.SFT().answers() == "chosen"
    for defense in (bs.SDD(), bs.Booster(lam=1, alpha=0.1, align=bs.SDD())):
        assert defense.answers() == "unrelated"
        assert "general" in defense.needs()
