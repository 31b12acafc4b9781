"""Defences are built from mappings, with their hyper-parameters checked by the annotations of their fields."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from boostershot import defenses
from boostershot.config import build_defense, describe_defense
from boostershot.config.reading import parse_yaml
from boostershot.defenses import SFT, Antibody, Booster, GradientAscent, Sum, TargetReduction, Vaccine
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


COMPOSED = """
method: sum
terms:
  booster:
    method: booster
    lam: 5
    alpha_per_weight: 2e-5
    steps: 3
    inner: fresh
    schedule: {target_reduction: 5e-2, every: 20, steer: alpha}
  ascent: {method: gradient_ascent, bound: null}
weights: {ascent: 1}
align: {method: antibody, alpha: 0.1, align: {method: vaccine, rho: 3}}
"""


def test_a_composition_is_written_in_yaml() -> None:
    composed = Sum(
        terms={
            "booster": Booster(
                lam=5.0,
                alpha_per_weight=2e-5,
                steps=3,
                inner="fresh",
                schedule=TargetReduction(0.05, every=20, steer="alpha"),
            ),
            "ascent": GradientAscent(bound=None),
        },
        weights={"ascent": 1.0},
        align=Antibody(alpha=0.1, align=Vaccine(rho=3.0)),
    )
    assert build_defense(parse_yaml(COMPOSED, "my.yaml"), "d") == composed
    described = describe_defense(composed)
    assert build_defense(parse_yaml(yaml.safe_dump(described), "my.yaml"), "d") == composed
    assert described["terms"]["booster"]["schedule"] == {
        "target_reduction": 0.05,
        "every": 20,
        "rate": 0.3,
        "steer": "alpha",
        "widest": 100.0,
    }
    assert described["align"]["align"] == {"method": "vaccine", "rho": 3.0}


BOOSTER = {"method": "booster", "alpha": 0.1}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (BOOSTER | {"lamb": 1}, 'd.lamb: unknown hyper-parameter of booster; expected one of method, lam, .*"lam"'),
        (BOOSTER | {"steps": 2.5}, "d.steps: is 2.5; expected a whole number"),
        (BOOSTER | {"steps": 0}, "d.steps: is 0; expected 1 or more"),
        (BOOSTER | {"inner": "old"}, 'd.inner: is "old"; expected one of same, fresh'),
        (BOOSTER | {"order": "exakt"}, r'd.order: is "exakt"; expected one of first, exact \(did you mean "exact"'),
        (BOOSTER | {"order": "exact", "steps": 2}, "d.order: is exact and steps is 2"),
        (BOOSTER | {"lam": -1}, "d.lam: is -1.0; expected a finite number, 0 or more"),
        (BOOSTER | {"align": "sft"}, r'd.align: is "sft"; expected \{method: name, ...\}'),
        (BOOSTER | {"align": {"method": "vaccin"}}, 'd.align.method: is "vaccin"; expected one of .*"vaccine"'),
        (BOOSTER | {"align": {"method": "vaccine", "rho": True}}, "d.align.rho: is true; expected a number"),
        (BOOSTER | {"schedule": 0.1}, "d.schedule: is 0.1; expected a mapping"),
        (BOOSTER | {"schedule": {}}, "d.schedule.target_reduction: is missing; schedule has no default for it"),
        (
            BOOSTER | {"schedule": {"target": 1}},
            "d.schedule.target: unknown hyper-parameter of schedule; expected one of target_reduction, every",
        ),
        (
            BOOSTER | {"schedule": {"target_reduction": "much"}},
            'd.schedule.target_reduction: is "much"; expected a num',
        ),
        (BOOSTER | {"schedule": {"target_reduction": 0}}, "d.schedule.target_reduction: is 0; expected"),
        (
            BOOSTER | {"schedule": {"target_reduction": 1, "steer": "rho"}},
            'd.schedule.steer: is "rho"; expected one of',
        ),
        ({"method": "sum"}, "d.terms: is missing; sum has no default for it"),
        ({"method": "sum", "terms": {}}, "d.terms: is empty; expected at least one label with a method"),
        ({"method": "sum", "terms": [BOOSTER]}, "d.terms: is .*; expected a mapping"),
        ({"method": "sum", "terms": {"a": {"lam": 1}}}, "d.terms.a.method: is missing; expected one of sft, booster"),
        ({"method": "sum", "terms": {"a": BOOSTER | {"rho": 1}}}, "d.terms.a.rho: unknown hyper-parameter of booster"),
        ({"method": "sum", "terms": {"a": {"method": "sft"}}}, "d: sum: terms.a is SFT, which has no term of its own"),
        ({"method": "sum", "terms": {"a": BOOSTER}, "weights": {"a": "x"}}, 'd.weights.a: is "x"; expected a number'),
        ({"method": "sum", "terms": {"a": BOOSTER}, "weights": {"b": 1}}, "d: sum: weights.b belongs to no term"),
        ({"method": "sum", "terms": {"a": BOOSTER}, "weights": None}, "d.weights: is null; expected a mapping"),
        ({"method": "sam", "rho": -1}, "d.rho: is -1.0; expected a finite number, 0 or more"),
        ({"method": "sam", "alpha": 1}, "d.alpha: unknown hyper-parameter of sam; expected one of method, rho"),
        ({"method": "vaccine", "rho": None}, "d.rho: is null; expected a number"),
        ({"method": "t_vaccine", "layers": 0}, "d.layers: is 0; expected 1 or more"),
        ({"method": "ctrap", "alpha": 1, "token": "x"}, 'd.token: is "x"; expected a whole number'),
        ({"method": "antibody"}, "d: antibody: takes exactly one of alpha and alpha_per_weight"),
        ({"method": "lookahead", "alpha": 0.1, "bound": -1}, "d.bound: is -1.0; expected a finite number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_that_names_the_key(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_defense(mapping, "d")
    assert "\n" not in str(caught.value)


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
        ({"rounds": 2, "exact": 1}, "d.exact: is 1; expected true or false"),
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
