"""How a question is put to a model: system text, example turns, words around it, the beginning of the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Asking:
    """What stands around a question.

    Args:
        system: the system turn; None leaves it to the chat template.
        shots: example turns before the question, as (question, answer).
        before, after: text before and after the question, in its own turn.
        prefill: the beginning of the answer, from which the model goes on; not part of what it is judged by.
    """

    system: str | None = None
    shots: tuple[tuple[str, str], ...] = ()
    before: str = ""
    after: str = ""
    prefill: str = ""

    def question(self, prompt: str) -> str:
        """The user turn."""
        return f"{self.before}{prompt}{self.after}"

    def for_task(self) -> Asking:
        """How the benign task is asked: under the same system text, with nothing that aims at harmful answers."""
        return Asking(system=self.system)

    def without_prefill(self) -> Asking:
        """The same, with the whole answer left to the model."""
        return replace(self, prefill="")


PLAIN = Asking()
