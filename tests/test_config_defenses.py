"""Defences are built from mappings, with their hyper-parameters checked by the annotations of their fields."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boostershot import defenses
from boostershot.config import build_defense, describe_defense
from boostershot.config_yaml import parse_yaml
from boostershot.defenses import SFT, Booster
from boostershot.errors import InputError

LENGTHS = ("alpha", "alpha_per_weight")
lengths = st.floats(1e-9, 1e6)
mappings = st.recursive(
    st.just({"method": "sft"}),
    lambda inner: st.fixed_dictionaries(
        {"method": st.just("booster")}, optional={"lam": st.floats(0, 100) | st.integers(0, 100), "align": inner}
    ).flatmap(lambda one: st.builds(lambda name, x: one | {name: x}, st.sampled_from(LENGTHS), lengths)),
    max_leaves=3,
)


@given(mappings)
def test_a_defense_is_built_from_its_description(mapping: dict[str, Any]) -> None:
    defense = build_defense(mapping, "defense")
    assert build_defense(describe_defense(defense), "defense") == defense


def test_defenses_nest() -> None:
    built = build_defense({"method": "booster", "lam": 3, "alpha": "1e-2", "align": {"method": "sft"}}, "d")
    assert built == Booster(lam=3.0, alpha=0.01)
    assert isinstance(built, Booster) and built.align == SFT()


def test_a_defense_within_itself_is_refused() -> None:
    with pytest.raises(InputError, match="within itself"):
        parse_yaml("sft: &d {method: booster, alpha: 1, align: *d}", "my.yaml")


@dataclass(frozen=True)
class Made:
    """A defence with every kind of hyper-parameter."""

    rounds: int
    layers: str = "all"
    exact: bool = False
    kind: Literal["linear", "rbf"] = "rbf"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "d.rounds: is missing; made has no default for it"),
        ({"rounds": 2.0}, "d.rounds: is 2.0; expected a whole number"),
        ({"rounds": 2, "layers": 3}, "d.layers: is 3; expected text"),
        ({"rounds": 2, "exact": 1}, "d.exact: is 1; expected bool"),
        ({"rounds": 2, "kind": "rfb"}, 'd.kind: is "rfb"; expected one of linear, rbf (did you mean "rbf"?)'),
        (
            {"rounds": 2, "round": 2},
            "d.round: unknown hyper-parameter of made; expected one of method, rounds",
        ),
    ],
)
def test_hyper_parameters_are_checked_by_their_annotations(
    monkeypatch: pytest.MonkeyPatch, mapping: dict[str, Any], message: str
) -> None:
    monkeypatch.setitem(defenses.DEFENSES, "made", Made)
    assert build_defense({"method": "made", "rounds": 2, "exact": True}, "d") == Made(2, exact=True)
    with pytest.raises(InputError) as caught:
        build_defense({"method": "made"} | mapping, "d")
    assert str(caught.value).startswith(message)
