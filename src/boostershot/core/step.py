"""What goes into one optimiser step of a defence (rows by role), and what comes out (a loss and its gradient)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from boostershot.core.batch import Rows
from boostershot.core.vector import Vector


@dataclass(frozen=True)
class Batch:
    """The rows of one optimiser step, by role.

    `align`: harmful prompt, safe answer. `harmful`: harmful prompt, harmful answer. `paired`: row i answers the prompt
    of `align`'s row i harmfully. `general`: benign text. `dev`: harmful rows that no gradient is taken to, for what
    is steered by measurement. A defence takes the roles that it needs.

    A role's rows are cut, in order, into `parts[role]` batches of even size; all that read one batch read the first.
    """

    align: Rows | None = None
    harmful: Rows | None = None
    paired: Rows | None = None
    general: Rows | None = None
    dev: Rows | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    _shares: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    _cut: dict[tuple[str, int], list[Rows]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def first(self, role: str, share: float) -> Batch:
        """The same, where of each batch of a role the first rows are read: so large a share of them."""
        fewer = replace(self)
        fewer._shares.update({**self._shares, role: share})
        return fewer

    def need(self, role: str) -> Rows:
        """The rows of a role: its first batch.

        Raises:
            ValueError: the batch has none.
        """
        return self.several(role, 1)[0]

    def several(self, role: str, n: int) -> list[Rows]:
        """n batches of a role.

        Raises:
            ValueError: the batch has fewer rows than that, or none.
        """
        rows: Rows | None = getattr(self, role)
        if rows is None:
            raise ValueError(f"this defence needs {role} rows, and the batch has none")
        parts, share = max(n, self.parts.get(role, 1)), self._shares.get(role, 1.0)
        if parts == 1:
            return [rows if share == 1 else rows.first(share)]
        if len(rows) < parts:
            raise ValueError(f"this defence reads {parts} batches of {role} rows, and there are {len(rows)} rows")
        if (role, parts) not in self._cut:
            self._cut[role, parts] = rows.cut(parts)
        return [one if share == 1 else one.first(share) for one in self._cut[role, parts][:n]]


class Step:
    """A loss and its gradient. Differentiation is linear, so steps add and scale like the losses they came from.

    Arithmetic gives its operands up: their buffers carry the result. Their `loss` and `metrics` stay readable, their
    `gradient` does not.
    """

    def __init__(self, loss: float, gradient: Vector, metrics: Mapping[str, float] | None = None):
        self.loss = loss
        self.metrics: dict[str, float] = dict(metrics or {})
        self._gradient: Vector | None = gradient

    @property
    def gradient(self) -> Vector:
        """One tensor for each trainable parameter, in the model's order.

        Raises:
            RuntimeError: the gradient was given up to a sum.
        """
        if self._gradient is None:
            raise RuntimeError("this step's gradient went into a sum; read it before")
        return self._gradient

    def _give_up(self) -> Vector:
        gradient, self._gradient = self.gradient, None
        return gradient

    def __add__(self, other: Step) -> Step:
        loss, metrics = self.loss + other.loss, {**self.metrics, **other.metrics}
        return Step(loss, self._give_up().plus(other._give_up()), metrics)

    def __sub__(self, other: Step) -> Step:
        return self + (-1.0) * other

    def __rmul__(self, factor: float) -> Step:
        return Step(factor * self.loss, self._give_up().times(factor), self.metrics)

    def through(self, value: float, slope: float) -> Step:
        """The step of a scalar function of this loss, by the chain rule: its value and its slope there."""
        return Step(value, self._give_up().times(slope), self.metrics)

    def copy(self) -> Step:
        """A step that may be given up while this one stays."""
        return Step(self.loss, self.gradient.copy(), self.metrics)

    def log(self, **metrics: float) -> Step:
        """The same step with these metrics added."""
        return Step(self.loss, self._give_up(), {**self.metrics, **metrics})
