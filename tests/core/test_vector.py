"""The laws of a vector space, the norm, and the way back of an excursion."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import boostershot.core.vector
from boostershot.core.vector import Vector, excursion

SHAPES = [(3,), (2, 2), (1, 1, 2)]
NUMBERS = st.integers(-64, 64).map(lambda n: n / 8)  # exact in binary: laws hold to the last bit
laws = settings(deadline=None, max_examples=25)


@st.composite
def vectors(draw) -> Vector:
    parts = []
    for shape in SHAPES:
        size = math.prod(shape)
        values = draw(st.lists(NUMBERS, min_size=size, max_size=size))
        parts.append(torch.tensor(values, dtype=torch.float64).reshape(shape))
    return Vector(tuple(parts), draw(NUMBERS))


def flat(vector: Vector) -> torch.Tensor:
    """The vector as one tensor, computed from its definition."""
    return torch.cat([vector.scale * part.flatten() for part in vector.parts])


def fresh(vector: Vector) -> Vector:
    """A copy, for operations that use their operand's buffers up."""
    return Vector(tuple(part.clone() for part in vector.parts), vector.scale)


@laws
@given(vectors(), vectors(), vectors(), NUMBERS, NUMBERS)
def test_vector_space(u, v, w, a, b):
    def plus(x, y):
        return fresh(x).plus(fresh(y))

    assert torch.equal(flat(plus(u, v)), flat(u) + flat(v))
    assert torch.equal(flat(plus(u, v)), flat(plus(v, u)))
    assert torch.equal(flat(plus(plus(u, v), w)), flat(plus(u, plus(v, w))))
    assert torch.equal(flat(u.times(a)), a * flat(u))
    assert torch.equal(flat(plus(u, v).times(a)), flat(plus(u.times(a), v.times(a))))
    assert torch.equal(flat(u.times(a + b)), flat(plus(u.times(a), u.times(b))))
    assert not flat(plus(u, u.times(-1.0))).any()


@laws
@given(vectors(), vectors())
def test_norm_unit_and_dot(u, v):
    assert u.norm() == pytest.approx(flat(u).norm().item(), rel=1e-12)
    assert u.dot(v) == pytest.approx((flat(u) @ flat(v)).item(), rel=1e-12, abs=1e-12)
    unit = u.unit()
    if flat(u).any():
        assert unit.norm() == pytest.approx(1.0, rel=1e-12)
        assert unit.dot(u) == pytest.approx(u.norm(), rel=1e-12)  # the same direction, not the opposite one
    else:
        assert unit.norm() == 0.0
        assert not flat(unit).any()


def test_dot_goes_over_long_tensors_piece_by_piece(monkeypatch):
    monkeypatch.setattr(boostershot.core.vector, "_PIECE", 2)
    u = Vector((torch.arange(5.0), torch.full((2, 3), 2.0).T), 3.0)
    assert u.dot(Vector((torch.arange(1.0, 6.0), torch.arange(6.0).reshape(2, 3).T))) == 3 * (40 + 2 * 15)


@laws
@given(vectors())
def test_tensors_work_the_scale_in_and_can_be_asked_twice(u):
    expected = flat(u)
    for _ in range(2):
        assert torch.equal(torch.cat([part.flatten() for part in u.tensors()]), expected)
    assert torch.equal(flat(u), expected)


def test_unit_and_times_copy_nothing():
    part = torch.ones(5)
    assert Vector((part,)).unit().times(3.0).parts[0].data_ptr() == part.data_ptr()


def test_plus_reuses_the_buffers_of_its_left_operand():
    part = torch.ones(5)
    assert Vector((part,), 2.0).plus(Vector((torch.ones(5),))).parts[0].data_ptr() == part.data_ptr()


def test_norm_of_mixed_precisions_and_of_nothing():
    assert Vector((torch.tensor([3.0]), torch.tensor([4.0], dtype=torch.float64)), -2.0).norm() == 10.0
    assert Vector(()).norm() == 0.0


def test_vectors_of_different_lengths_do_not_add():
    with pytest.raises(RuntimeError):
        Vector((torch.ones(1), torch.ones(1))).plus(Vector((torch.ones(1),)))


@pytest.mark.parametrize("fail", [False, True])
def test_an_excursion_brings_every_bit_back(fail):
    # 1e-8 + 1 - 1 is 0 in float32: undoing the move by arithmetic would lose it. Special values come back too.
    params = [torch.nn.Parameter(torch.tensor([1e-8, -0.0, 0.1, float("nan"), float("inf")])) for _ in range(2)]
    bits = [param.detach().view(torch.int32).clone() for param in params]
    try:
        with excursion(params):
            for param in params:
                param.data.add_(1.0)
            assert not torch.equal(params[0].detach().view(torch.int32), bits[0])
            if fail:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fail
    for param, before in zip(params, bits, strict=True):
        assert torch.equal(param.detach().view(torch.int32), before)
