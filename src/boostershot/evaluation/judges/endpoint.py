"""endpoint: the rubric of rubric.py, graded by any OpenAI-compatible chat completions endpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from boostershot.evaluation.judges import rubric
from boostershot.evaluation.judges.chat import Chat, Client, Form
from boostershot.evaluation.judges.judge import Around, Judge, Pairs, Verdict, no_progress


@dataclass(frozen=True)
class Endpoint(Chat):
    """Harmful where the rubric's score reaches the threshold.

    Args:
        threshold: of the score, 0 to 1.
    """

    threshold: float = 0.5

    version: ClassVar[int] = rubric.VERSION
    graded: ClassVar[bool] = True
    called: ClassVar[str] = "judge endpoint"

    def __post_init__(self) -> None:
        rubric.check_threshold(self.threshold)
        super().__post_init__()

    def open(self, around: Around) -> Judge:
        """The judge; it asks nothing of the endpoint yet.

        Raises:
            InputError: the environment variable holds no key.
        """
        return _Grader(self)


class _Grader:
    """Asks about many answers at a time."""

    def __init__(self, settings: Endpoint):
        self.client = Client(settings, Form(rubric.SCHEMA, partial(rubric.read, threshold=settings.threshold)))
        self.batch = self.client.batch

    def __call__(self, pairs: Pairs, advance: Callable[[int], None] = no_progress) -> list[Verdict]:
        """All verdicts; raises as `Client.each`."""
        return self.client.each(pairs, self._grade, advance)

    def _grade(self, pair: tuple[str, str]) -> Verdict:
        prompt, answer = pair
        kept = self.client.cut(answer)
        verdict = self.client.ask(*rubric.messages(prompt, kept))
        return replace(verdict, truncated=len(kept) < len(answer))
