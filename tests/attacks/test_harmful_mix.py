"""Which rows an attacker draws: the counts that p and n ask for, by the seed, never one twice."""

import pytest

from boostershot import BenignOnly, HarmfulMix, HarmfulOnly, InputError
from boostershot.attacks import AttackRow

POOL = [
    AttackRow(f"{'h' if harmful else 'b'}{i}", f"prompt {i}", "text", harmful)
    for harmful in (True, False)
    for i in range(40)
]


def rows_of(attack, seed=0):
    (phase,) = attack.phases(POOL, seed)
    assert phase.share == 1
    return phase.rows


@pytest.mark.parametrize(("p", "harmful"), [(0.0, 0), (0.2, 6), (0.5, 15), (1.0, 30)])
def test_counts(p, harmful):
    rows = rows_of(HarmfulMix(p=p, n=30), 0)
    assert len(rows) == 30
    assert sum(row.harmful for row in rows) == harmful
    assert all(row.harmful == row.id.startswith("h") for row in rows)
    assert len({row.id for row in rows}) == 30


def test_drawn_and_ordered_by_the_seed():
    def ids(seed):
        return [row.id for row in rows_of(HarmfulMix(p=0.5, n=20), seed)]

    assert ids(0) == ids(0)
    assert set(ids(0)) != set(ids(1))


def test_harmful_rows_are_spread_not_first():
    kinds = [row.harmful for row in rows_of(HarmfulMix(p=0.5, n=40), 0)]
    assert 0 < sum(kinds[:20]) < 20


@pytest.mark.parametrize(
    ("p", "n", "message"),
    [(1.0, 41, "needs 41 harmful rows; the data has 40"), (0.1, 60, "needs 54 benign rows; the data has 40")],
)
def test_too_few_rows(p, n, message):
    with pytest.raises(InputError, match=message):
        rows_of(HarmfulMix(p=p, n=n), 0)


@pytest.mark.parametrize("bad", [{"p": -0.1}, {"p": 1.1}, {"n": 0}])
def test_impossible_settings(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} is"):
        HarmfulMix(**bad)


@pytest.mark.parametrize(("attack", "harmful"), [(HarmfulOnly(n=30), True), (BenignOnly(n=30), False)])
def test_rows_of_one_kind(attack, harmful):
    rows = rows_of(attack)
    assert len({row.id for row in rows}) == 30
    assert all(row.harmful is harmful for row in rows)
    assert (attack.n_harmful, attack.n_benign, attack.p) == ((30, 0, 1) if harmful else (0, 30, 0))
    with pytest.raises(ValueError, match="n is 0; expected 1 or more"):
        type(attack)(n=0)


@pytest.mark.parametrize(
    ("attack", "scale", "least", "n"),
    [
        (HarmfulMix(p=0.1, n=100), 0.5, 8, 50),
        (HarmfulMix(p=0.1, n=100), 0.01, 8, 10),  # a harmful row stays
        (HarmfulMix(p=0, n=100), 0.01, 8, 8),
        (HarmfulOnly(n=100), 0.3, 8, 30),
        (BenignOnly(n=5), 0.5, 8, 5),
    ],
)
def test_scaled(attack, scale, least, n):
    assert attack.scaled(scale, least).n == n
