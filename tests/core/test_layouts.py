"""Trie, padded rows and the plain Hugging Face loss agree, whatever the shapes, masks and labels."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import batch_of, relative_difference
from boostershot.core.batch import Rows, padded, trie
from boostershot.core.losses import token_losses
from boostershot.core.oracle import Oracle
from tiny import tiny_gpt2, tiny_llama

BUILDERS = {"gpt2": tiny_gpt2, "llama": tiny_llama}


@cache
def model_of(name: str, attention: str = "sdpa"):
    # transformers' eager Llama gives NaN for left-padded rows in float64: its softmax is float32, the mask is not.
    model = BUILDERS[name](vocab=16, dtype=torch.float64 if name == "gpt2" else torch.float32, std=0.2)
    model.set_attn_implementation(attention)
    return model


@st.composite
def batches(draw):
    """1 to 5 rows of 1 to 7 tokens out of 3, so that prefixes often coincide; labels anywhere, at least one."""
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        tokens = draw(st.lists(st.integers(3, 5), min_size=1, max_size=7))
        kept = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
        kept[0] = False  # nothing predicts the first token
        rows.append((tokens, [t if keep else -100 for t, keep in zip(tokens, kept, strict=True)]))
    rows.append(([3, 4], [-100, 4]))
    rows = draw(st.permutations(rows))
    return batch_of(rows, side=draw(st.sampled_from(["left", "right"])), extra=draw(st.integers(0, 3)))


def plain(model, batch) -> torch.Tensor:
    """The mean loss as transformers computes it from `labels`."""
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    return model(**batch, position_ids=positions).loss


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", BUILDERS)
@settings(deadline=None, max_examples=25)
@given(batch=batches())
def test_trie_padded_and_plain_loss_agree(name, attention, batch):
    model, rows = model_of(name, attention), Rows.of(batch)
    with torch.no_grad():
        # GPT-2 is float64 throughout; transformers' own loss is float32.
        in_trie, in_rows = token_losses(model, trie(rows, model.dtype)), token_losses(model, padded(rows))
        tolerance = 1e-10 if name == "gpt2" else 1e-5
        torch.testing.assert_close(in_trie, in_rows, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(in_trie.mean().float(), plain(model, batch).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
@settings(deadline=None, max_examples=15)
@given(batch=batches())
def test_gradient_is_that_of_the_plain_loss(name, batch):
    model = model_of(name)
    step = Oracle(model).gradient(Rows.of(batch))
    expected = torch.autograd.grad(plain(model, batch), list(model.parameters()))
    assert step.loss == pytest.approx(plain(model, batch).item(), rel=1e-5)
    assert relative_difference(step.gradient.tensors(), expected) < 1e-5


def test_equal_rows_and_prefixes_count_as_often_as_they_occur():
    model = model_of("gpt2")
    first, second = ([3, 4, 5, 6], [-100, -100, 5, 6]), ([3, 4, 5], [-100, -100, 5])

    def summed(*rows):
        """The sum of token losses and its gradient, from the mean."""
        tokens = sum(label != -100 for _, labels in rows for label in labels)
        step = tokens * Oracle(model).gradient(Rows.of(batch_of(rows)))
        return step.loss, step.gradient.tensors()

    # Thrice `first` and once its prefix `second`, of which the trie is `first` alone.
    assert trie(Rows.of(batch_of([first, first, second, first])), torch.float64).tokens == 4
    loss, gradient = summed(first, first, second, first)
    (loss_1, gradient_1), (loss_2, gradient_2) = summed(first), summed(second)
    assert loss == pytest.approx(3 * loss_1 + loss_2, rel=1e-12)
    expected = [3 * a + b for a, b in zip(gradient_1, gradient_2, strict=True)]
    assert relative_difference(gradient, expected) < 1e-12


def test_a_trie_does_no_more_work_than_the_distinct_prefixes():
    oracle = Oracle(model_of("llama"))
    oracle.gradient(Rows.of(batch_of([([3, 4, 5, 6], [-100, -100, 5, 6])] * 6, extra=9)))
    assert oracle.tokens == 4
