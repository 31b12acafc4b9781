"""The split into micro-batches and the padding change no gradient, for every defence and both layouts."""

import pytest
import torch
from test_contracts import every_defense

import boostershot as bs
import boostershot.core.losses
from batches import batch_of, other_answers, relative_difference
from tiny import tiny_gpt2

ROLES = {role: other_answers(seed=i) for i, role in enumerate(("align", "harmful", "paired", "general", "dev"), 1)}
for rows in (ROLES["align"], ROLES["harmful"]):
    rows[4] = (rows[4][0], [-100] * len(rows[4][0]))  # a micro-batch of one may have nothing to learn from


@pytest.fixture(params=["trie", "padded"])
def layout(request, monkeypatch):
    """Both ways of laying rows out, forced."""
    monkeypatch.setattr(boostershot.core.losses, "reads_tries", lambda _: request.param == "trie")


def gradient(model, defense, micro_batch_size=None, tokens=None, **padding) -> list[torch.Tensor]:
    step = bs.defense_gradient(
        model,
        defense,
        **{role: batch_of(rows, **padding) for role, rows in ROLES.items()},
        micro_batch_size=micro_batch_size,
        tokens_per_micro_batch=tokens,
    )
    return [*step.gradient.values(), torch.tensor([step.loss, *step.metrics.values()], dtype=torch.float64)]


def test_label_counts_are_uneven():
    # With even counts the mean of micro-batch means would pass for the mean over tokens.
    for role in ("align", "harmful"):
        counts = [sum(label != -100 for label in labels) for _, labels in ROLES[role]]
        assert len(counts) == 8
        assert len(set(counts)) > 4
        assert 0 in counts


@every_defense
@pytest.mark.parametrize("size", [3, 1, 8, 100])
@pytest.mark.usefixtures("layout")
def test_micro_batches_give_the_gradient_of_the_whole_batch(defense, size):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    assert relative_difference(gradient(model, defense, size), gradient(model, defense)) < 1e-10


@every_defense
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.usefixtures("layout")
def test_a_budget_of_tokens_gives_the_gradient_of_the_whole_batch(defense, tokens):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    assert relative_difference(gradient(model, defense, tokens=tokens), gradient(model, defense)) < 1e-10


@every_defense
@pytest.mark.parametrize("padding", [{"side": "left"}, {"side": "right", "extra": 5}, {"side": "left", "extra": 3}])
@pytest.mark.usefixtures("layout")
def test_padding_does_not_matter(defense, padding):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    assert relative_difference(gradient(model, defense, **padding), gradient(model, defense)) < 1e-10


@every_defense
def test_the_layouts_agree(defense, monkeypatch):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    in_tries = gradient(model, defense, 3)
    monkeypatch.setattr(boostershot.core.losses, "reads_tries", lambda _: False)
    assert relative_difference(in_tries, gradient(model, defense, 3)) < 1e-10
