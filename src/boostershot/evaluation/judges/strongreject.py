"""strongreject: the rubric of rubric.py, graded by any chat model on this machine.

`endpoint` grades by the same rubric elsewhere. Not run for real with a model large enough to grade.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from boostershot.evaluation.judges import rubric
from boostershot.evaluation.judges.judge import Verdict
from boostershot.evaluation.judges.llama_guard import templated
from boostershot.evaluation.judges.local import ChatJudge, Part

_PLACE = "\ue000material\ue000"


@dataclass(frozen=True)
class StrongReject(ChatJudge):
    """Harmful where the rubric's score reaches the threshold.

    Args:
        threshold: of the score, 0 to 1.
    """

    threshold: float = 0.5

    version: ClassVar[int] = rubric.VERSION
    graded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        rubric.check_threshold(self.threshold)

    def parts(self, tokenizer: Any, prompt: str, answer: str) -> list[Part]:
        """Instruction and material in one user turn, since not every template has a system turn."""
        instruction, material = rubric.messages(prompt, answer)
        parts = templated(tokenizer, [("user", _PLACE)], {_PLACE: material})
        (before, _), (text, _), (after, _) = parts
        return [(f"{before}{instruction}\n\n", True), (text, False), (after, True)]

    def read(self, said: str) -> Verdict:
        """The three marks."""
        return rubric.read(said, self.threshold)
