"""What a search may choose: how a space is read, limited by a budget, and refused."""

import pytest

from boostershot.attacks.spaces import SPACES
from boostershot.config.space import flat, nested, read_space
from boostershot.errors import InputError

SPACE = {
    "adapter": ["continue", "fresh"],
    "lr": {"low": 1e-5, "high": "1e-2", "log": True},
    "steps": {"low": 10, "high": 400},
    "batch": [4, 8, 64],
    "lora.rank": {"values": [4, 8], "when": {"adapter": ["fresh"]}},
    "lora.alpha": {"times": 2, "of": "lora.rank"},
}


def test_a_space_survives_its_own_description():
    space = read_space(SPACE, "space")
    assert read_space(space.to_dict(), "space") == space
    assert space["steps"].whole
    assert not space["lr"].whole


def test_a_budget_cuts_lists_and_ranges():
    space = read_space(SPACE, "space").limited({"steps": 100, "batch": 8}, "space")
    assert (space["steps"].low, space["steps"].high) == (10, 100)
    assert space["batch"].choices == (4, 8)
    assert space["lr"].high == 1e-2
    with pytest.raises(InputError, match=r"space\.batch: has nothing up to 2"):
        read_space(SPACE, "space").limited({"batch": 2}, "space")


def test_conditions_and_multiples():
    space = read_space(SPACE, "space")
    assert space["lora.rank"].applies({"adapter": "fresh"})
    assert not space["lora.rank"].applies({"adapter": "continue"})
    assert not space["lora.rank"].applies({})
    assert space.derived({"lora.rank": 8}) == {"lora.rank": 8, "lora.alpha": 16}
    assert space.derived({"adapter": "continue"}) == {"adapter": "continue"}


def test_known_values_are_found_in_the_space_or_not_at_all():
    space = read_space(SPACE, "space")
    known = {"adapter": "continue", "lr": 1e-3, "steps": 20, "batch": 8, "p": 0.2}
    assert space.values_in(known) == {"adapter": "continue", "lr": 1e-3, "steps": 20, "batch": 8}
    assert space.values_in(known | {"batch": 5}) is None
    assert space.values_in(known | {"lr": 1.0}) is None
    assert space.values_in(known | {"adapter": "fresh"}) is None  # a fresh adapter needs a rank
    assert space.values_in(known | {"adapter": "fresh", "lora.rank": 4})["lora.rank"] == 4


def test_the_samples_hold_every_choice_and_both_ends():
    seen = {(key, value) for values in read_space(SPACE, "space").samples() for key, value in values.items()}
    assert {("adapter", "continue"), ("adapter", "fresh"), ("batch", 64), ("lr", 1e-5), ("lr", 1e-2)} <= seen
    assert {("lora.rank", 4), ("lora.rank", 8), ("lora.alpha", 8), ("lora.alpha", 16)} <= seen
    assert not [v for v in read_space(SPACE, "space").samples() if v["adapter"] == "continue" and "lora.rank" in v]


def test_dotted_keys_and_nesting_are_inverse():
    values = {"lr": 1e-3, "lora.rank": 4, "lora.alpha": 8}
    assert nested(values) == {"lr": 1e-3, "lora": {"rank": 4, "alpha": 8}}
    assert flat(nested(values)) == values


@pytest.mark.parametrize("name", SPACES)
def test_shipped_spaces_are_whole(name):
    assert read_space(name, "space").to_dict()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("defualt", 'did you mean "default"'),
        ({}, "expected {key"),
        ({"lr": 3}, "space.lr: is 3; expected a list"),
        ({"lr": []}, "space.lr.values"),
        ({"batch": [4, 4]}, "each value once"),
        ({"lr": {"low": 1e-3}}, "expected values, low and high"),
        ({"lr": {"low": 1e-3, "high": 1e-4}}, "space.lr.high: is 0.0001; expected more than low"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "more than 0"),
        ({"lr": {"low": 1, "high": 2, "logg": True}}, 'did you mean "log"'),
        ({"lr": {"low": "a", "high": 2}}, "space.lr.low"),
        ({"lora.rank": {"values": [4], "when": {"adapter": ["fresh"]}}}, "depends on 'adapter'"),
        ({"lora.alpha": {"times": 2, "of": "lora.rank"}}, "depends on 'lora.rank'"),
    ],
)
def test_a_wrong_space_is_told_in_one_line(given, said):
    with pytest.raises(InputError) as caught:
        read_space(given, "space")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
