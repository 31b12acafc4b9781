"""The moves of an adaptive attacker, each by a naive reference; weights and phases are what they say."""

import naive_training as naive
import pytest
import torch

from batches import random_batch
from boostershot.attacks.moves import Perturbed, opposing, shake
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Step
from boostershot.core.vector import Vector
from tiny import tiny_llama


def model_of():
    return tiny_llama(128, dtype=torch.float64, std=0.2)


def walked(params, direction, by):
    length = naive.norm(direction)
    return {name: param + by * direction[name] / length for name, param in params.items()}


def test_perturbed_gradients_are_taken_along_a_noisy_walk():
    model, batch = model_of(), random_batch(4)
    before = naive.weights(model)
    found = Perturbed(gradients=3, radius=0.05).gradient(Oracle(model, seed=3, step=2), Rows.of(batch))
    assert all(torch.equal(param, before[name]) for name, param in model.named_parameters())

    generator, point, gradients = Oracle(model, seed=3, step=2).generator("perturbed"), before, []
    r = 0.05 * naive.norm(before)
    losses = []
    for _ in range(3):
        noise = {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in before.items()}
        point = walked(point, noise, r)
        losses.append(naive.loss(model, point, batch).item())
        gradients.append(naive.gradient(lambda w: naive.loss(model, w, batch), point))
        point = walked(point, gradients[-1], -r)
    expected = {name: sum(g[name] for g in gradients) / 3 for name in before}
    here = dict(zip(before, found.gradient.tensors(), strict=True))
    naive.assert_same(here, expected, {name: torch.zeros_like(w) for name, w in before.items()})
    assert found.loss == pytest.approx(sum(losses) / 3)


def test_perturbed_points_differ_from_step_to_step():
    model, rows = model_of(), Rows.of(random_batch(4))
    first, again, other = (Perturbed(2, 0.05).gradient(Oracle(model, seed=3, step=s), rows).loss for s in (1, 1, 2))
    assert first == again != other


def test_a_shake_has_the_asked_length_in_a_direction_of_the_seed():
    def moved(seed):
        params = [torch.ones(40, 30), torch.ones(30)]
        shake(params, 0.1, seed)
        return params

    change = [param - 1 for param in moved(0)]
    assert naive.norm(dict(enumerate(change))) == pytest.approx(0.1 * (40 * 30 + 30) ** 0.5, rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(moved(0), moved(0), strict=True))
    assert not torch.equal(moved(0)[0], moved(1)[0])
    assert abs(change[0].mean()) < 0.01  # no direction is preferred


def test_an_opposed_term_pulls_with_its_share_of_the_harmful_gradient():
    h = Step(2.0, Vector((torch.tensor([3.0, 0.0]), torch.tensor([4.0]))), {"a": 1.0})
    term = Step(-7.0, Vector((torch.tensor([0.0, 10.0]), torch.tensor([0.0])), scale=3.0))
    both = opposing(h, term, 0.5)
    assert both.loss == 2.0 and both.metrics == {"a": 1.0, "opposed_term": -7.0}
    assert [part.tolist() for part in both.gradient.tensors()] == [[3.0, -2.5], [4.0]]


def test_an_opposed_term_without_a_gradient_changes_nothing():
    h = Step(2.0, Vector((torch.tensor([3.0, 4.0]),)))
    both = opposing(h, Step(0.0, Vector((torch.zeros(2),))), 0.5)
    assert both.gradient.tensors()[0].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"gradients": 0}, "gradients is 0; expected 1 or more"),
        ({"radius": 0.0}, "radius is 0.0; expected a finite number above 0"),
        ({"radius": float("nan")}, "radius is nan"),
    ],
)
def test_impossible_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        Perturbed(**bad)
