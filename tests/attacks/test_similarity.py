"""Gradient similarities against gradients that autograd gives row by row."""

import pytest
import torch

from boostershot.attacks.similarity import gradient_similarities
from boostershot.data.format import Format
from boostershot.training.arguments import attach_lora
from tiny import preference_rows, tiny_llama, tiny_tokenizer

FORM = Format.choose(tiny_tokenizer(True))


def tokenized(key, rows):
    return [FORM.tokenize(row["prompt"], row[key], name="row", max_length=128) for row in rows]


def flat_gradient(model, row):
    model.zero_grad()
    model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss.backward()
    found = torch.cat([param.grad.flatten() for param in model.parameters() if param.requires_grad])
    return found / found.norm()


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_cosines_with_the_mean_of_unit_gradients(lora):
    model = tiny_llama(320, dtype=torch.float64, std=0.2)
    if lora:
        model = attach_lora(model, {"rank": 2, "dropout": 0.5}).double()
    rows = preference_rows(9)
    harmful, benign = tokenized("rejected", rows[:3]), tokenized("chosen", rows[3:])
    found = gradient_similarities(model.train(), harmful, benign, FORM.pad_id)
    assert model.training
    model.eval()
    anchor = sum(flat_gradient(model, row) for row in harmful)
    expected = [torch.dot(flat_gradient(model, row), anchor / anchor.norm()).item() for row in benign]
    assert found == pytest.approx(expected, abs=1e-6)  # rotations are in float32 at any dtype
    assert max(expected) - min(expected) > 0.01
