"""What an attacker opposes is the defence's objective less its plain loss, on the attacker's rows."""

import pytest
import torch

from batches import other_answers, random_rows
from boostershot import SAM, SDD, SFT, Booster, LoX, RepNoise, Sum, Vaccine
from boostershot.core.oracle import Oracle
from boostershot.data.format import TokenizedRow, collate
from boostershot.pipeline.opposed import opposed, passes_of, term_of
from tiny import tiny_llama


def tokenized(rows, name):
    return [
        TokenizedRow(f"{name}{i}", tuple(ids[: labels.count(-100)]), tuple(ids[labels.count(-100) :]))
        for i, (ids, labels) in enumerate(rows)
    ]


ROLES = {
    "align": tokenized(random_rows(8, seed=1), "a"),
    "paired": tokenized(other_answers(8, seed=2), "p"),
    "harmful": tokenized(random_rows(8, seed=3), "h"),
}
ROLES["align"] = tokenized(other_answers(8, seed=1), "a")


def model_of():
    return tiny_llama(128, dtype=torch.float64, std=0.2)


def at_first_step(defense):
    model = model_of()
    return opposed(defense, ROLES, batch=4, pad_id=0, seed=0)(Oracle(model)), model


@pytest.mark.parametrize(
    "defense",
    [
        Booster(lam=3, alpha=0.05),
        Vaccine(rho=1.0),
        RepNoise(),
        SAM(rho=0.1),
        Booster(lam=3, alpha=0.05, align=Vaccine(1.0)),
    ],
    ids=["booster", "vaccine", "repnoise", "sam", "booster-vaccine"],
)
def test_the_term_is_the_objective_less_the_plain_loss(defense):
    from boostershot.core.step import Batch
    from boostershot.training.data import RolesDataset

    found, model = at_first_step(defense)
    data = RolesDataset({role: ROLES[role] for role in defense.reads()}, 0, defense.reads())
    batch = Batch(
        **{role: collate([data[i][role][0] for i in range(4)], 0) for role in defense.reads()}, parts=defense.reads()
    )
    whole, plain = defense.step(Oracle(model), batch), SFT().step(Oracle(model), batch)
    assert found.loss == pytest.approx(whole.loss - plain.loss, abs=1e-12)
    for a, b, c in zip(found.gradient.tensors(), whole.gradient.tensors(), plain.gradient.tensors(), strict=True):
        torch.testing.assert_close(a, b - c, rtol=1e-9, atol=1e-12)
    assert found.gradient.norm() > 0


def test_later_steps_read_later_rows():
    term = opposed(Booster(lam=3, alpha=0.05), ROLES, batch=4, pad_id=0, seed=0)
    first, second, third = (term(Oracle(model_of(), step=step)).loss for step in range(3))
    assert first != second
    assert first == pytest.approx(third)  # eight rows are two batches of four


@pytest.mark.parametrize(
    "defense", [SFT(), SDD(), Booster(lam=0, alpha=0.1), LoX(align=SFT())], ids=["sft", "sdd", "lam 0", "lox"]
)
def test_plain_alignment_has_nothing_to_oppose(defense):
    assert term_of(defense) is None


def test_a_sum_is_opposed_as_a_whole():
    both = Sum({"a": Booster(lam=1, alpha=0.05), "b": Booster(lam=2, alpha=0.05)})
    found, _ = at_first_step(both)
    alone, _ = at_first_step(Booster(lam=3, alpha=0.05))
    assert found.loss == pytest.approx(alone.loss)


@pytest.mark.parametrize(
    "defense",
    [
        SFT(),
        Booster(lam=3, alpha=0.05),
        Vaccine(),
        RepNoise(),
        Booster(lam=3, alpha=0.05, align=Vaccine()),
        Booster(lam=0, alpha=1),
    ],
    ids=["sft", "booster", "vaccine", "repnoise", "booster-vaccine", "lam 0"],
)
def test_the_declared_passes_are_those_taken(defense):
    oracle, term = Oracle(model_of()), opposed(defense, ROLES, batch=4, pad_id=0, seed=0)
    if term is not None:
        term(oracle)
    assert passes_of(defense) == pytest.approx(oracle.passes)


@pytest.mark.parametrize("around", [lambda align: align, lambda align: SAM(rho=0.1, align=align)], ids=["", "sam"])
def test_approximations_are_the_defenders(around):
    exact, lazy = Booster(lam=3, alpha=0.05), Booster(lam=3, alpha=0.05, every=3, harmful_share=0.5)
    (expected, _), (found, _) = at_first_step(around(exact)), at_first_step(around(lazy))
    assert found.loss == expected.loss
    assert all(torch.equal(a, b) for a, b in zip(found.gradient.tensors(), expected.gradient.tensors(), strict=True))
    assert passes_of(around(lazy)) == passes_of(around(exact))
