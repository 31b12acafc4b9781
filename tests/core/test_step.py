"""Steps add and scale like the losses they came from, and give their buffers up."""

import pytest
import torch

from batches import random_batch, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Step
from boostershot.core.vector import Vector
from tiny import tiny_gpt2


def step(loss: float, *values: float, **metrics: float) -> Step:
    return Step(loss, Vector((torch.tensor(values),)), metrics)


def test_arithmetic():
    total = step(1.0, 1.0, 2.0, a=1.0) + 3.0 * (step(5.0, 10.0, 20.0, b=2.0) - step(4.0, 1.0, 1.0, c=3.0))
    assert total.loss == 1.0 + 3.0 * (5.0 - 4.0)
    assert total.gradient.tensors()[0].tolist() == [1.0 + 3.0 * 9.0, 2.0 + 3.0 * 19.0]
    assert total.metrics == {"a": 1.0, "b": 2.0, "c": 3.0}
    logged = total.log(d=4.0)
    assert logged.metrics == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert logged.gradient.tensors()[0].tolist() == [28.0, 59.0]


@pytest.mark.parametrize(
    "combine",
    [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: b - a],
    ids=["plus", "minus", "minus the other way"],
)
def test_operands_are_given_up(combine):
    a, b = step(1.0, 1.0, m=1.0), step(2.0, 5.0)
    combine(a, b)
    for operand, loss in ((a, 1.0), (b, 2.0)):
        assert operand.loss == loss  # what was logged of it stays readable
        with pytest.raises(RuntimeError, match="went into a sum"):
            _ = operand.gradient
    assert a.metrics == {"m": 1.0}


def test_a_scaled_or_logged_step_is_given_up_and_no_step_is_added_to_itself():
    for use in (lambda a: 2.0 * a, lambda a: a.log(x=1.0), lambda a: a + a):
        a = step(1.0, 1.0)
        try:
            use(a)
        except RuntimeError as error:
            assert "went into a sum" in str(error)
        with pytest.raises(RuntimeError, match="went into a sum"):
            _ = a.gradient
    with pytest.raises(RuntimeError):
        a = step(1.0, 1.0)
        _ = a + a


def test_the_gradient_of_a_combination_is_the_combination_of_gradients():
    # Through the model: -2 f + 3 h is the mean loss of neither, so linearity must come from the arithmetic.
    oracle = Oracle(tiny_gpt2(dtype=torch.float64, std=0.2))
    f_rows, h_rows = Rows.of(random_batch(seed=1)), Rows.of(random_batch(seed=2))
    combined = -2.0 * oracle.gradient(f_rows) + 3.0 * oracle.gradient(h_rows)
    f, h = (oracle.gradient(rows).gradient.tensors() for rows in (f_rows, h_rows))
    expected = [-2.0 * a + 3.0 * b for a, b in zip(f, h, strict=True)]
    assert relative_difference(combined.gradient.tensors(), expected) < 1e-12
