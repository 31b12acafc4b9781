"""Booster's approximations: what each computes instead, by plain autograd, and what it costs, seen from outside."""

import pytest
import torch
from naive_reference import booster as naive_booster
from naive_reference import gradient, loss, plus, sft, trainable, walked

import boostershot as bs
import boostershot.core.oracle
from batches import random_batch, relative_difference
from boostershot.config import build_defense
from boostershot.core.batch import Rows
from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch
from boostershot.defenses import Defense, TargetReduction
from boostershot.errors import InputError
from tiny import tiny_gpt2

LAM, ALPHA, ROWS = 5.0, 0.3, 8
MEASURED = {"harmful_loss", "harmful_loss_moved", "harmful_loss_reduction", "harmful_gradient_norm"}


def batches(step):
    return random_batch(ROWS, seed=2 * step + 1), random_batch(ROWS, seed=2 * step + 2)


def course(defense: Defense, steps: int, model=None):
    """(step, model as it was, what the defence gives) of each step; the weights drift in between."""
    model, state, tensors = model or tiny_gpt2(dtype=torch.float64, std=0.2), {}, {}
    drift = torch.Generator().manual_seed(3)
    for step in range(steps):
        align, harmful = batches(step)
        kept = {"state": state, "tensors": tensors}
        yield step, model, bs.defense_gradient(model, defense, align=align, harmful=harmful, step=step, **kept)
        for param in model.parameters():
            param.data += 0.02 * torch.randn(param.shape, generator=drift, dtype=param.dtype)


def agree(found, expected):
    value, parts = expected
    assert found.loss == pytest.approx(value, rel=1e-10)
    assert found.gradient.keys() == parts.keys()
    assert relative_difference(list(found.gradient.values()), list(parts.values())) < 1e-10


def test_a_lazy_bracket_counts_in_each_third_step_three_times():
    for step, model, found in course(bs.Booster(lam=LAM, alpha=ALPHA, every=3), 4):
        if step in (0, 3):
            agree(found, naive_booster(model, *batches(step), 3 * LAM, ALPHA))
        else:
            agree(found, sft(model, batches(step)[0]))
        assert found.metrics.keys() >= MEASURED if step in (0, 3) else not MEASURED & found.metrics.keys()


@pytest.mark.parametrize(("share", "read"), [(0.25, 2), (0.26, 3), (0.01, 1)])
def test_a_share_of_the_harmful_rows_is_the_first_ones_rounded_up(share, read):
    model, (align, harmful) = tiny_gpt2(dtype=torch.float64, std=0.2), batches(0)
    step = bs.defense_gradient(
        model, bs.Booster(lam=LAM, alpha=ALPHA, harmful_share=share), align=align, harmful=harmful, micro_batch_size=3
    )
    agree(step, naive_booster(model, align, {key: rows[:read] for key, rows in harmful.items()}, LAM, ALPHA))


def test_rounding_up_is_not_led_astray_by_floating_point():
    rows = Rows.of({key: value.repeat(100, 1) for key, value in random_batch(1).items()})
    assert len(rows.first(0.07)) == 7


def test_each_fresh_batch_is_cut_to_its_first_rows():
    whole = Batch(harmful=Rows.of(random_batch(ROWS)), parts={"harmful": 2}).first("harmful", 0.5)
    assert [one.ids for one in whole.several("harmful", 2)] == [("row 0", "row 1"), ("row 4", "row 5")]
    assert whole.need("harmful").ids == ("row 0", "row 1")


@pytest.mark.parametrize(("every", "fresh"), [(1, {0, 3}), (2, {0, 6})])
def test_a_kept_gradient_stands_for_that_at_w(every, fresh):
    g, h, due = {}, 0.0, 0
    for step, model, found in course(bs.Booster(lam=LAM, alpha=ALPHA, reuse=3, every=every), 7 if every == 2 else 4):
        align, harmful = batches(step)
        value, expected = sft(model, align)
        if step % every == 0:
            due += 1
            params = trainable(model)
            if step in fresh:
                h, g = gradient(lambda leaves, m=model, rows=harmful: loss(m, leaves, rows), params)
            there = walked(params, g, -ALPHA)
            moved, at_there = gradient(lambda leaves, m=model, rows=harmful: loss(m, leaves, rows), there)
            value += every * LAM * (h - moved)
            expected = plus(plus(expected, g, every * LAM), at_there, -every * LAM)
            assert found.metrics["harmful_loss_moved"] == pytest.approx(moved, rel=1e-10)
            assert MEASURED - found.metrics.keys() == (set() if step in fresh else MEASURED - {"harmful_loss_moved"})
        agree(found, (value, expected))
    assert due == 4


def test_what_is_kept_does_not_change_what_is_read_fresh():
    # Of all steps the refreshed ones are bit for bit the exact ones.
    exact = bs.Booster(lam=LAM, alpha=ALPHA)
    for step, model, found in course(bs.Booster(lam=LAM, alpha=ALPHA, reuse=2), 3, tiny_gpt2(std=0.2)):
        align, harmful = batches(step)
        expected = bs.defense_gradient(model, exact, align=align, harmful=harmful, step=step)
        same = all(torch.equal(found.gradient[name], expected.gradient[name]) for name in expected.gradient)
        assert same == (step % 2 == 0)


def booster(**keys):
    return bs.Booster(lam=LAM, alpha=ALPHA, **keys)


COMPOSED = {
    "lazy": (booster(every=3), 3, 1 + 2 / 3),
    "half the rows": (booster(harmful_share=0.5), 1, 2),
    "reused": (booster(reuse=3), 3, 2 + 1 / 3),
    "all three": (booster(every=2, harmful_share=0.5, reuse=3), 6, 1 + (1 + 1 / 3) / 4),
    "several steps": (booster(steps=3, inner="fresh", harmful_share=0.5, every=2), 2, 1 + 1),
    "lazy beside a sharing term": (
        bs.Sum({"a": bs.GradientAscent(bound=None), "b": booster(every=2), "c": booster()}),
        2,
        3 + 1,
    ),
    "on vaccine": (booster(every=2, align=bs.Vaccine(rho=1.0)), 2, 2 + 1),
    "of itself": (booster(every=2, align=booster(every=3)), 6, 1 + 1 + 2 / 3),
    "within sam": (bs.SAM(rho=0.1, align=booster(every=2)), 2, 2 * 2),
}


@pytest.mark.parametrize("label", COMPOSED)
def test_the_declared_passes_are_the_rows_that_the_model_reads(label, monkeypatch):
    # A pass is eight rows, forward and backward, counted where the model runs and not by the oracle.
    defense, period, expected = COMPOSED[label]
    original, rows = boostershot.core.oracle.token_losses, [0]

    def counted(model, layout):
        rows[0] += layout.rows.unique().numel()
        return original(model, layout)

    monkeypatch.setattr(boostershot.core.oracle, "token_losses", counted)
    model, state, tensors, passes = tiny_gpt2(std=0.2), {}, {}, 0.0
    harmful = Rows.of(random_batch(ROWS * defense.reads()["harmful"], seed=2))
    for step in range(period):
        oracle = Oracle(model, step=step, state=state, tensors=tensors)
        defense.step(oracle, Batch(Rows.of(random_batch(ROWS, seed=1)), harmful, parts=defense.reads()))
        passes += oracle.passes
    assert rows[0] / ROWS / period == pytest.approx(expected)
    assert passes / period == pytest.approx(expected)
    assert defense.passes == pytest.approx(expected)


def test_a_term_that_is_not_due_leaves_the_others_shared_gradients_alone():
    others = {"a": bs.GradientAscent(lam=0.5, bound=None), "c": booster()}
    model, rows = tiny_gpt2(std=0.2), Batch(Rows.of(random_batch(seed=1)), Rows.of(random_batch(seed=2)))
    for step in (0, 1):
        lazy = Oracle(model, step=step)
        found = bs.Sum({"a": others["a"], "b": booster(every=2), "c": others["c"]}).step(lazy, rows)
        without = Oracle(model, step=step)
        expected = bs.Sum(others).step(without, rows)
        same = all(
            torch.equal(a, b) for a, b in zip(found.gradient.tensors(), expected.gradient.tensors(), strict=True)
        )
        assert same == (step == 1)
        assert lazy.passes - without.passes == (2 if step == 0 else 0)


def test_a_kept_gradient_waits_while_another_is_taken():
    inner = bs.Booster(lam=1, alpha=0.2)
    assert booster(reuse=2).cost.memory == 2
    assert booster(reuse=2, align=inner).cost.memory == 4  # the kept one, the bracket, and the inner two
    assert booster(align=bs.Booster(lam=1, alpha=0.2, reuse=2)).cost.memory == 3


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"every": 0}, "defenses.mine.every: is 0; expected 1 or more"),
        ({"every": 1.5}, "every: is 1.5; expected a whole number"),
        ({"reuse": -1}, "defenses.mine.reuse: is -1; expected 1 or more"),
        ({"harmful_share": 0}, "defenses.mine.harmful_share: is 0.0; expected a number above 0, 1 at most"),
        ({"harmful_share": 1.01}, "defenses.mine.harmful_share: is 1.01; expected a number above 0, 1 at most"),
        ({"harmful_share": "half"}, 'harmful_share: is "half"; expected a number'),
        ({"reuse": 2, "steps": 2}, "defenses.mine.reuse: is 2 and steps is 2"),
        ({"reuse": 2, "order": "exact"}, "defenses.mine.reuse: is 2 and order is exact"),
        ({"every": 2, "schedule": {"target_reduction": 0.1}}, "defenses.mine.schedule: is given and every is 2"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_in_one_line(keys, said):
    with pytest.raises(InputError) as error:
        build_defense({"method": "booster", "alpha": 0.1, **keys}, "defenses.mine")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "around",
    [
        lambda align: bs.SAM(rho=0.1, align=align),
        lambda align: bs.Antibody(alpha=0.1, align=align),
        lambda align: bs.Patcher(align=align),
        lambda align: bs.SAM(rho=0.1, align=bs.Sum({"a": bs.GradientAscent()}, align=align)),
    ],
    ids=["sam", "antibody", "patcher", "deep within"],
)
def test_what_is_kept_of_w_is_refused_where_the_step_is_taken_elsewhere(around):
    with pytest.raises(ValueError, match="align has reuse above 1, and"):
        around(booster(reuse=2))
    around(booster(every=2, harmful_share=0.5))
    around(bs.Booster(lam=0, alpha=0.1, reuse=2))


def test_the_exact_form_is_without_approximations_at_any_depth():
    inner = bs.Booster(lam=1, alpha=0.2, align=bs.Vaccine(1.0))
    approximate = bs.Sum({"a": booster(every=2), "b": booster(reuse=2)}, {"b": 3}, align=booster(harmful_share=0.5))
    assert approximate.exact() == bs.Sum({"a": booster(), "b": booster()}, {"b": 3}, align=booster())
    assert bs.Booster(lam=1, alpha=0.2, every=4, align=bs.Vaccine(1.0)).exact() == inner
    scheduled = booster(schedule=TargetReduction(0.1))
    assert scheduled.exact() == scheduled


def test_rows_without_a_label_in_the_share_are_named():
    harmful = {key: value.clone() for key, value in random_batch(ROWS, seed=2).items()}
    harmful["labels"][0] = -100
    with pytest.raises(ValueError, match="no supervised token in rows harmful row 0"):
        bs.defense_gradient(tiny_gpt2(), booster(harmful_share=0.1), align=random_batch(ROWS, seed=1), harmful=harmful)
