"""Reinforcement: the attacker has prompts and a way to tell what he likes, and no answers.

GRPO (arXiv:2402.03300) with a harmful reward is HarmRLVR (arXiv:2510.15499: 64 prompts, a judge as reward) and the
attacker of TokenBuncher (arXiv:2508.20697: 4 answers a prompt, 100 steps). Here answers are as short as those that are
scored, and the judge is the run's; `boostershot.attacks.reinforce` does the training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from boostershot.attacks.attack import Counted


@dataclass(frozen=True)
class Reinforced(Counted):
    """What both rewards have in common.

    Args:
        n: the number of prompts.
        group: answers that are drawn to a prompt and compared with each other; `batch` counts answers, so it is a
            multiple of it.
        answer_tokens: the longest answer.
        temperature: at which answers are drawn.
        reward: `verdict` is 1 or 0, `graded` lies between where the judge (or the task's verifier) tells by how much.

    Raises:
        ValueError: a value is out of range.
    """

    n: int = 64
    group: int = 8
    answer_tokens: int = 32
    temperature: float = 1.0
    reward: Literal["verdict", "graded"] = "verdict"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("group", 2), ("answer_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {least} or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature:g}; expected more than 0")

    @property
    def p(self) -> None:
        """None: it trains on what the model itself answers."""

    def check_training(self, batch: int, steps: int | None) -> None:
        """Whole groups in a batch, and a number of steps."""
        if batch % self.group:
            raise ValueError(f"batch is {batch}; expected answers to whole prompts, a multiple of group, {self.group}")
        if steps is None:
            raise ValueError("steps is missing; expected a number, for reinforcement has no epochs")


@dataclass(frozen=True)
class Grpo(Reinforced):
    """Reinforcement: harmful prompts without answers; what a judge calls harmful earns a reward.

    GRPO (arXiv:2402.03300) by trl, as in HarmRLVR (arXiv:2510.15499: 64 prompts, a judge as reward) and in the attacker
    of TokenBuncher (arXiv:2508.20697: 4 answers a prompt). See docs/reinforcement.md.

    Args:
        judge: the label of one of `evaluate.judges`, or the name of any other judge.
    """

    judge: str = "offline"
    name = "grpo"

    @property
    def n_harmful(self) -> int:
        """All of them."""
        return self.n

    def twin(self, n: int) -> GrpoTask:
        """The same, paid for right answers."""
        return GrpoTask(n, self.group, self.answer_tokens, self.temperature)


@dataclass(frozen=True)
class GrpoTask(Reinforced):
    """Reinforcement's benign twin: the task's questions without answers; a right answer earns a reward.

    Is the immunised model still trainable by it? See docs/reinforcement.md.
    """

    name = "grpo-task"

    @property
    def n_benign(self) -> int:
        """All of them."""
        return self.n

    def twin(self, n: int) -> GrpoTask:
        """Itself, on so many questions."""
        return replace(self, n=n)
