"""The gradients of a published implementation, kept in tests/golden, are reached to 1e-5."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import boostershot as bs
from batches import relative_difference
from boostershot.defenses import Defense

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "cases.json").read_text())}


def defense_of(name: str) -> Defense:
    if name == "sft":
        return bs.SFT()
    values = CASES[name]["hyperparameters"]
    if name == "vaccine":
        return bs.Vaccine(rho=values["rho"])
    align = bs.Vaccine(rho=values["rho"]) if values["perturb_aware"] == "True" else bs.SFT()
    return bs.Booster(lam=values["lam"], alpha=values["alpha"], align=align)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_published_gradient(name, attention):
    config = LlamaConfig.from_json_file(GOLDEN / "config.json")
    config._attn_implementation = attention
    model = LlamaForCausalLM(config).to(torch.float64)
    model.load_state_dict(load_file(GOLDEN / "model.safetensors"))
    stored = load_file(GOLDEN / "batches.safetensors")
    align, harmful = (
        {key.removeprefix(role): value for key, value in stored.items() if key.startswith(role)}
        for role in ("align.", "harm.")
    )

    step = bs.defense_gradient(model, defense_of(name), align=align, harmful=harmful)

    expected = load_file(GOLDEN / f"grad.{name}.safetensors")
    assert step.gradient.keys() == expected.keys()
    for key, gradient in step.gradient.items():  # each tensor: a small one must not hide behind a large one
        assert relative_difference([gradient], [expected[key]]) < 1e-5, key
    assert step.metrics["alignment_loss"] == pytest.approx(CASES[name]["align_loss"], rel=1e-5)
