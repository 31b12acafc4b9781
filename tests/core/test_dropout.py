"""In train mode all passes of a step see one dropout mask: h(w) - h(w') is not noise."""

import pytest
import torch

import boostershot as bs
from batches import random_batch
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from tiny import tiny_gpt2

ALIGN, HARMFUL = random_batch(seed=1), random_batch(seed=2)
ROWS = Rows.of(HARMFUL)
MODEL = tiny_gpt2(dropout=0.3, std=0.2).train()
both_sizes = pytest.mark.parametrize("size", [None, 3])


def evaluate(**oracle):
    step = Oracle(MODEL, **oracle).gradient(ROWS)
    return step.loss, step.gradient.tensors()


@both_sizes
def test_two_evaluations_at_the_same_weights_are_bitwise_equal(size):
    oracle = Oracle(MODEL, micro_batch_size=size)
    first, second = oracle.gradient(ROWS), oracle.gradient(ROWS)
    assert first.loss == second.loss
    pairs = zip(first.gradient.tensors(), second.gradient.tensors(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_dropout_is_on():
    loss, _ = evaluate()
    MODEL.eval()
    try:
        assert evaluate()[0] != loss
    finally:
        MODEL.train()


@both_sizes
def test_without_a_move_the_reduction_is_exactly_zero(size):
    step = bs.defense_gradient(MODEL, bs.Booster(lam=5, alpha=0.0), align=ALIGN, harmful=HARMFUL, micro_batch_size=size)
    assert step.metrics["harmful_loss_reduction"] == 0.0


def test_a_small_move_gives_a_small_reduction():
    # Independent masks would differ by tenths; to first order the reduction is alpha |grad h|.
    metrics = bs.defense_gradient(MODEL, bs.Booster(lam=5, alpha=1e-3), align=ALIGN, harmful=HARMFUL).metrics
    expected = 1e-3 * metrics["harmful_gradient_norm"]
    assert metrics["harmful_loss_reduction"] == pytest.approx(expected, rel=0.05)


def test_another_step_or_seed_gives_another_mask():
    losses = [evaluate(seed=seed, step=step)[0] for seed in (0, 1) for step in (0, 1, 10)]
    assert len(set(losses)) == 6
    assert evaluate(seed=1, step=10)[0] == losses[-1]


def test_micro_batches_have_masks_of_their_own():
    # The same row three times: under one mask its losses would be the same, and so their mean.
    row = ROWS.split(1)[0]
    thrice = Rows.of({key: getattr(row, key).repeat(3, 1) for key in ("input_ids", "attention_mask", "labels")})
    once = Oracle(MODEL).gradient(row).loss
    assert Oracle(MODEL, micro_batch_size=1).gradient(thrice).loss != pytest.approx(once, rel=1e-6)


def test_the_mask_does_not_depend_on_the_global_generator_and_leaves_it_alone():
    expected = evaluate()[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        state = torch.get_rng_state()
        assert evaluate()[0] == expected
        assert torch.equal(torch.get_rng_state(), state)
