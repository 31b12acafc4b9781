"""What an attack is: which rows an adversary trains on, in which phases, and how he asks the model afterwards."""

from __future__ import annotations

import random
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from boostershot.attacks.moves import PLAIN_MOVES, Moves
from boostershot.data.asking import PLAIN, Asking
from boostershot.errors import InputError

if TYPE_CHECKING:  # torch comes with it
    from boostershot.data.format import Format

Optimizer = Literal["adamw", "sgd", "adafactor", "lion"]


@dataclass(frozen=True)
class AttackRow:
    """One row of the attacker's data, and how its prompt is put in training."""

    id: str
    prompt: str
    completion: str
    harmful: bool
    asking: Asking = PLAIN


@dataclass(frozen=True)
class Phase:
    """Rows that are trained on for a share of the attack's optimiser steps, with an optimiser of their own.

    `moves` says how the steps differ from the attack's plain ones.
    """

    rows: Sequence[AttackRow]
    share: float = 1.0
    moves: Moves = PLAIN_MOVES


@dataclass(frozen=True)
class Attack(ABC):
    """An adversary. Subclasses are frozen dataclasses; their fields are the keys of a recipe beside the training's.

    Files that define one load no torch: a recipe is checked without it.
    """

    name: ClassVar[str]  # in ATTACKS
    trains: ClassVar[bool] = True  # False: no optimiser step; it asks in another way, or edits the weights
    edits: ClassVar[bool] = False  # True: `edit` changes the weights, and nothing trains them

    @property
    def n_harmful(self) -> int:
        """How many harmful rows it needs."""
        return 0

    @property
    def n_benign(self) -> int:
        """How many rows of the benign task it needs."""
        return 0

    @property
    def n(self) -> int:
        """How many rows it trains on in an epoch."""
        return self.n_harmful + self.n_benign

    @property
    def p(self) -> float | None:
        """The harmful share of its rows; None where it trains on no answers of theirs."""
        return self.n_harmful / self.n if self.n else 0.0

    @property
    def prelude(self) -> float:
        """The share of its steps before its last phase, in which a harmful loss says little of what it will reach."""
        return 0.0

    @property
    def passes(self) -> float:
        """Forward-backward passes over a batch in one of its steps."""
        return 1

    @property
    def askings(self) -> Mapping[str, Asking]:
        """How the attacked model is asked; the first is the attacker's own way, each other is reported apart."""
        return {"plain": PLAIN}

    def asked(self, harmful: Sequence[AttackRow], seed: int) -> Mapping[str, Asking]:
        """`askings`, with the words that a way of asking takes from the attacker's rows.

        Args:
            harmful: his harmful rows.
            seed: of the draw.
        """
        return self.askings

    def drawn(self, pool: Sequence[AttackRow], seed: int) -> list[AttackRow]:
        """The rows that it wants of each kind, without repetition, shuffled; arguments and errors as for `phases`."""
        return draw(pool, self.n_harmful, self.n_benign, seed, self.name)

    def phases(self, pool: Sequence[AttackRow], seed: int) -> list[Phase]:
        """What it trains on, in order: one phase of the drawn rows, if it trains.

        Args:
            pool: harmful rows and rows of the benign task.
            seed: of the draw and the order.

        Raises:
            InputError: there are too few rows of a kind.
        """
        return [Phase(self.drawn(pool, seed))] if self.trains else []

    def select(self, model: Any, form: Format, pool: Sequence[AttackRow], max_length: int) -> Sequence[AttackRow]:
        """The part of the pool that it draws from, where the model has a say in that.

        Args:
            model: as training finds it, with the weights to be trained trainable.
            form: how prompts become tokens.
            pool: as for `phases`.
            max_length: of a row, in tokens.

        Raises:
            InputError: there are too few rows of a kind.
        """
        return pool

    def edit(self, model: Any, form: Format, pool: Sequence[AttackRow], max_length: int) -> None:
        """Change the model's weights in place, if it `edits`; arguments and errors as for `select`.

        Args:
            model: without an adapter attached.
        """
        raise NotImplementedError(f"{self.name} edits no weights")

    def scaled(self, scale: float, least: int) -> Self:
        """The same with that fraction of its rows, but at least so many."""
        return self

    def twin(self, n: int) -> Attack:
        """The same kind of training on n rows of the benign task and nothing else."""
        from boostershot.attacks.benign_only import BenignOnly  # which is an attack itself

        return BenignOnly(n)

    def check_training(self, batch: int, steps: int | None) -> None:  # noqa: B027 - most can be trained in any way
        """Look whether it can be trained so; `steps` is None where epochs are counted.

        Raises:
            ValueError: it cannot; begins with the key, as in "batch is 3; expected ...".
        """


@dataclass(frozen=True)
class Counted(Attack):
    """An attack whose size is one number.

    Args:
        n: the number of rows.

    Raises:
        ValueError: n is less than 1.
    """

    n: int = 100  # pyright: ignore[reportIncompatibleMethodOverride] - a field in place of the property

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n}; expected 1 or more")

    def scaled(self, scale: float, least: int) -> Self:
        """Fewer rows."""
        return replace(self, n=fewer(self.n, scale, least))


def draw(pool: Sequence[AttackRow], harmful: int, benign: int, seed: int, name: str) -> list[AttackRow]:
    """So many rows of each kind, without repetition, shuffled.

    Raises:
        InputError: there are too few rows of a kind.
    """
    source = random.Random(f"harmful-mix/{seed}")
    picked: list[AttackRow] = []
    for kind, count in ((True, harmful), (False, benign)):
        have = [row for row in pool if row.harmful is kind]
        if len(have) < count:
            word = "harmful" if kind else "benign"
            raise InputError(f"{name}: needs {count} {word} rows; the data has {len(have)}")
        picked += source.sample(have, count)
    source.shuffle(picked)
    return picked


def fewer(n: int, scale: float, least: int) -> int:
    """That fraction of n rows, but at least so many, and never more than n."""
    return min(n, max(least, round(n * scale)))
