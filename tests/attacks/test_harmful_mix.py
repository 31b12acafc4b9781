"""Which rows an attacker draws: the counts that p and n ask for, by the seed, never one twice."""

import pytest

from boostershot import HarmfulMix, InputError

POOL = [
    {"id": f"{'h' if harmful else 'b'}{i}", "prompt": f"prompt {i}", "completion": "text", "harmful": harmful}
    for harmful in (True, False)
    for i in range(40)
]


@pytest.mark.parametrize(("p", "harmful"), [(0.0, 0), (0.2, 6), (0.5, 15), (1.0, 30)])
def test_counts(p, harmful):
    rows = HarmfulMix(p=p, n=30).rows(POOL, seed=0)
    assert len(rows) == 30
    assert sum(row.harmful for row in rows) == harmful
    assert all(row.harmful == row.id.startswith("h") for row in rows)
    assert len({row.id for row in rows}) == 30


def test_drawn_and_ordered_by_the_seed():
    def ids(seed):
        return [row.id for row in HarmfulMix(p=0.5, n=20).rows(POOL, seed)]

    assert ids(0) == ids(0)
    assert set(ids(0)) != set(ids(1))


def test_harmful_rows_are_spread_not_first():
    kinds = [row.harmful for row in HarmfulMix(p=0.5, n=40).rows(POOL, seed=0)]
    assert 0 < sum(kinds[:20]) < 20


@pytest.mark.parametrize(
    ("p", "n", "message"),
    [(1.0, 41, "needs 41 harmful rows; the data has 40"), (0.1, 60, "needs 54 benign rows; the data has 40")],
)
def test_too_few_rows(p, n, message):
    with pytest.raises(InputError, match=message):
        HarmfulMix(p=p, n=n).rows(POOL, seed=0)


@pytest.mark.parametrize("bad", [{"p": -0.1}, {"p": 1.1}, {"n": 0}, {"adapter": "new"}])
def test_impossible_settings(bad):
    with pytest.raises(ValueError, match=f"harmful-mix: {next(iter(bad))} is"):
        HarmfulMix(**bad)
