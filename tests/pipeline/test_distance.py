"""The distance that an attack records, against the merged matrices themselves."""

import copy
import json

import pytest
import torch

from boostershot.attacks.finetune import adapted
from boostershot.pipeline.distance import Distance, effective_norm
from boostershot.training.arguments import attach_lora
from tiny import tiny_llama

LORA = {"rank": 3, "alpha": 6, "targets": ["q_proj", "down_proj", "embed_tokens"]}


def merged(model):
    """All effective weights in float64, by name."""
    plain = copy.deepcopy(model)
    plain = plain.merge_and_unload() if hasattr(plain, "peft_config") else plain
    return {name: param.detach().double() for name, param in plain.named_parameters()}


def between(after, before):
    norm = sum(one.square().sum() for one in before.values()).sqrt()
    return (sum((after[n] - before[n]).square().sum() for n in before).sqrt() / norm).item()


def immunised():
    """A model with an adapter that has been trained."""
    model = attach_lora(tiny_llama(std=0.2), LORA)
    stir(model)
    return model


def stir(model):
    draw = torch.Generator().manual_seed(sum(p.numel() for p in model.parameters() if p.requires_grad))
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param += 0.05 * torch.randn(param.shape, generator=draw)


@pytest.mark.parametrize("mode", ["continue", "fresh", "full"])
def test_each_adapter_mode_has_the_distance_of_its_merged_weights(mode, tmp_path):
    model = immunised()
    model = model if mode == "continue" else model.merge_and_unload()
    start = merged(model)
    distance = Distance(tmp_path / "d.json", model, tmp_path / "scratch" if mode == "full" else None)
    model = adapted(model, mode, LORA)
    distance.measure(0, model)
    stir(model)
    distance.measure(2, model)
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["0"] == pytest.approx(0, abs=1e-9)
    wanted = between(merged(model), start)
    assert wanted > 0.01
    assert found["2"] == pytest.approx(wanted, rel=1e-5)


def test_the_norm_is_of_the_effective_weights():
    model = immunised()
    alone = effective_norm(tiny_llama(std=0.2))
    assert effective_norm(model) == pytest.approx(sum(w.square().sum() for w in merged(model).values()).sqrt().item())
    assert effective_norm(model) != pytest.approx(alone, rel=1e-4)
