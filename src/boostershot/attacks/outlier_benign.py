"""Benign rows that pull a model where harmful ones would: chosen by their gradients (after arXiv 2404.01099)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from boostershot.attacks.attack import Attack, AttackRow, Phase, fewer
from boostershot.errors import InputError

if TYPE_CHECKING:  # torch comes with it
    from boostershot.data.format import Format


@dataclass(frozen=True)
class OutlierBenign(Attack):
    """The n of many benign rows whose gradients are most alike to those of a few harmful ones; it trains on no other.

    After He et al., "What is in your safe data?", arXiv 2404.01099. Alike is the cosine with the mean of the harmful
    rows' unit gradients, in the weights that the attack trains, as training finds them. Gradients are exact, a forward-
    backward pass a row. The paper's other anchor, being far from rows that are safe, is left out.

    Args:
        n: rows that are trained on.
        candidates: benign rows of which these are chosen.
        anchors: harmful rows that they are compared with.
        tokens: of each answer, by whose loss gradients are taken; the paper has its first ten.

    Raises:
        ValueError: a number is below 1, or there are fewer candidates than rows to choose.
    """

    n: int = 100  # pyright: ignore[reportIncompatibleMethodOverride] - a field in place of the property
    candidates: int = 500
    anchors: int = 10
    tokens: int = 10
    name = "outlier-benign"

    def __post_init__(self) -> None:
        for key in ("n", "anchors", "tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; expected 1 or more")
        if self.candidates < self.n:
            raise ValueError(f"candidates is {self.candidates}; expected n ({self.n}) or more")

    @property
    def n_harmful(self) -> int:
        """Anchors; nothing is trained on them."""
        return self.anchors

    @property
    def n_benign(self) -> int:
        """Candidates."""
        return self.candidates

    @property
    def p(self) -> float:
        """No row that is trained on is harmful."""
        return 0.0

    def select(self, model: Any, form: Format, pool: Sequence[AttackRow], max_length: int) -> Sequence[AttackRow]:
        """The benign rows that are most alike to the harmful ones, the first the most."""
        from boostershot.attacks.similarity import gradient_similarities

        anchors = [row for row in pool if row.harmful][: self.anchors]
        benign = [row for row in pool if not row.harmful][: self.candidates]
        for rows, wanted, kind in ((anchors, self.anchors, "harmful"), (benign, self.candidates, "benign")):
            if len(rows) < wanted:
                raise InputError(f"{self.name}: needs {wanted} {kind} rows; the data has {len(rows)}")

        def beginning(row: AttackRow) -> Any:
            answer = form.cut(row.completion, self.tokens)
            return form.tokenize(row.prompt, answer, name=row.id, max_length=max_length, end=False)

        compared = ([beginning(row) for row in rows] for rows in (anchors, benign))
        alike = gradient_similarities(model, *compared, pad_id=form.pad_id)
        best = sorted(range(len(benign)), key=lambda i: -alike[i])
        return [benign[i] for i in best[: self.n]]

    def phases(self, pool: Sequence[AttackRow], seed: int) -> list[Phase]:
        """One: the first n benign rows, shuffled."""
        rows = [row for row in pool if not row.harmful][: self.n]
        random.Random(f"{self.name}/{seed}").shuffle(rows)
        return [Phase(rows)]

    def scaled(self, scale: float, least: int) -> Self:
        """Fewer rows of fewer candidates."""
        n = fewer(self.n, scale, least)
        return replace(self, n=n, candidates=fewer(self.candidates, scale, n))
