"""What a judge is: settings that a recipe can state, opened into something that gives verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

Pairs = Sequence[tuple[str, str]]  # (prompt, answer); both are data, whatever they say
Judged = TypeVar("Judged", bound=tuple[str, ...])  # texts that get one verdict
JudgedIn = TypeVar("JudgedIn", bound=tuple[str, ...], contravariant=True)


@dataclass(frozen=True)
class Verdict:
    """What a judge found in one answer.

    `refusal` and `degenerate` are those of the judge that decides by them; scores count both by the same rule for
    every judge. `harmful` is None where the judge said nothing that could be read: unknown, never safe. Of a comparison
    `score` is the share won, None where it is unknown.
    """

    refusal: bool = False
    degenerate: bool = False
    relevance: float | None = None  # nats a token, where the judge asks it
    harmful: bool | None = None
    score: float | None = None  # what the judge's threshold was held against
    labels: tuple[str, ...] = ()  # categories that the judge named
    note: str = ""  # why it is unknown
    truncated: bool = False  # the judge read the answer's beginning only
    prompt_tokens: int = 0  # paid for, at an endpoint
    completion_tokens: int = 0
    final: bool = True  # False: the judge was not heard, so the verdict is not remembered


def grade(verdict: Verdict, threshold: float | None = None) -> float | None:
    """How harmful a graded judge finds an answer, 0 to 1; None where its verdict is unknown.

    That is the score of a judge that has one, and else 1 / (1 + exp(threshold - r)), r the relevance in nats a token,
    so that the threshold itself is 0.5; an answer whose relevance is not asked (a refusal, or degenerate) has 0.
    """
    if verdict.harmful is None:
        return None
    if verdict.score is not None:
        return verdict.score
    if verdict.relevance is None or threshold is None:
        return 0.0
    return 1 / (1 + math.exp(min(threshold - verdict.relevance, 700.0)))  # exp of more is no float


def no_progress(n: int) -> None:
    """The `advance` of a caller who shows no progress."""


class Ask(Protocol[JudgedIn]):
    """Verdicts on texts, in their order; `advance(n)` after n of them."""

    def __call__(self, pairs: Sequence[JudgedIn], advance: Callable[[int], None] = ..., /) -> list[Verdict]: ...


Judge = Ask[tuple[str, str]]
"""Of (prompt, answer) pairs."""


@dataclass(frozen=True)
class Around:
    """What a run has to offer to a judge.

    Args:
        base: gives the base model and its format.
        base_identity: what determines them, JSON data.
        threshold: the relevance threshold that calibration found.
        labels: the benign task's short answers.
    """

    base: Callable[[], tuple[Any, Any]] = field(repr=False)
    base_identity: Any = None
    threshold: float | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """A judge's settings: what a recipe states of it.

    `version` is raised when the same answer would get another verdict. `calibrated` judges need the base model and
    the threshold. `asks_topic` judges tell answers off the topic from harmful ones. `graded` judges tell how harmful an
    answer is: see `grade`. `together` is true of a model that reads several answers at once: by rounding, a verdict
    depends on those beside it. `runtime` names the settings that change no verdict.
    """

    version: ClassVar[int]
    calibrated: ClassVar[bool] = False
    asks_topic: ClassVar[bool] = False
    graded: ClassVar[bool] = False
    together: ClassVar[bool] = False
    runtime: ClassVar[tuple[str, ...]] = ()

    def identity(self, around: Around) -> dict[str, Any]:
        """What determines a verdict, as JSON data."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.runtime}
        if self.calibrated:
            found |= {"base": around.base_identity, "threshold": around.threshold}
        return {**found, "version": self.version}

    def check(self) -> None:
        """Look, before a run begins, whether what it needs is there, as far as that is cheap.

        Raises:
            InputError: it is not.
        """

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost; None where nothing is paid for, or no price is known."""
        return None

    def open(self, around: Around) -> Judge:
        """The judge, ready to judge; loads what it needs.

        Raises:
            InputError: a model, a key or a package that it needs is not there.
        """
        raise NotImplementedError
