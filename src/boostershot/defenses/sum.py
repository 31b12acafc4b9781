"""A weighted sum of regularisers on one alignment objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from boostershot.core.oracle import Oracle
from boostershot.core.step import Batch, Step
from boostershot.defenses.about import ALIGN, About, HyperParameter
from boostershot.defenses.defense import Cost, Defense, Regularizer, check, most
from boostershot.defenses.sft import SFT


@dataclass(frozen=True)
class Sum(Regularizer):
    """min f(w) + sum over labels of weights[label] * term[label].

    Args:
        terms: label -> a defence with a term of its own, such as Booster; its `align` stays the default.
        weights: label -> factor on the term; 1 if not given.
        align: the defence whose step is f.

    Raises:
        ValueError: there is no term, a term has none of its own or another `align`, a weight is negative or not
            finite or belongs to no term.
    """

    terms: Mapping[str, Defense]
    weights: Mapping[str, float] = field(default_factory=dict)
    align: Defense = SFT()

    about = About(
        title="weighted sum of regularisers",
        source="this project",
        equation="f(w) + sum_i weights_i * term_i(w), term_i = the i-th defence's objective less its f",
        idea="Defences with a term of their own are added on one alignment objective.",
        follows="The terms' own definitions. Gradients that several terms read (of h at w) are computed once.",
        example={
            "terms": {
                "booster": {"method": "booster", "alpha_per_weight": 2e-5},
                "ascent": {"method": "gradient_ascent"},
            },
            "weights": {"booster": 2, "ascent": 0.5},
        },
        hyper_parameters={
            "terms": HyperParameter(
                "label -> {method: ..., hyper-parameters}, of methods that take `align`; align itself is the sum's",
                "terms that pull h up and down at once (gradient_ascent, booster) may cancel",
            ),
            "weights": HyperParameter("label -> factor on that term; 1 if not given", "as the term's own weight"),
            "align": ALIGN,
        },
        notes="Nesting by `align` (Booster on RepNoise on Vaccine) is the same sum, written from outside in. Where two "
        "terms log one metric, the later one's is logged.",
    )

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("sum: terms is empty; expected at least one label with a method")
        for label, term in self.terms.items():
            if not isinstance(term, Regularizer):
                raise ValueError(
                    f"sum: terms.{label} is {type(term).__name__}, which has no term of its own; use it as `align`"
                )
            if term.align != SFT():
                raise ValueError(f"sum: terms.{label} has an `align`; give it to the sum")
        for label, weight in self.weights.items():
            if label not in self.terms:
                raise ValueError(f"sum: weights.{label} belongs to no term; the terms are {', '.join(self.terms)}")
            check("sum", **{f"weights.{label}": weight})

    def _parts(self) -> list[tuple[float, Regularizer]]:
        """Weights and terms that count."""
        found = [(self.weights.get(label, 1.0), term) for label, term in self.terms.items()]
        return [(weight, term) for weight, term in found if isinstance(term, Regularizer) and term.active and weight]

    def due(self, step: int) -> bool:
        """Does any term count in this step?"""
        return any(term.due(step) for _, term in self._parts())

    @property
    def active(self) -> bool:
        """Does any term count?"""
        return bool(self._parts())

    @property
    def term_cost(self) -> Cost:
        """That of all terms, one after the other."""
        (_, first), *rest = self._parts()
        cost = first.term_cost
        for _, term in rest:
            cost = cost.then(term.term_cost)
        return cost

    def term_reads(self) -> dict[str, int]:
        """What any term reads."""
        return most(*(term.term_reads() for _, term in self._parts()))

    def term(self, oracle: Oracle, batch: Batch) -> Step:
        """The weighted sum."""
        (weight, first), *rest = [part for part in self._parts() if part[1].due(oracle.step)]
        total = weight * first.term(oracle, batch)
        for weight, term in rest:
            total = total + weight * term.term(oracle, batch)
        return total
