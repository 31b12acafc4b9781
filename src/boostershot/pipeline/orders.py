"""What the leader of a run and its workers tell each other, whatever carries it.

Imports nothing heavy: a worker takes over the leader's environment before it loads libraries that read it once.
"""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from boostershot.errors import InputError, StageFailed
from boostershot.pipeline.files import disk_is_full
from boostershot.pipeline.locks import Unusable
from boostershot.pipeline.store import told

if TYPE_CHECKING:
    from boostershot.config import Recipe

PASSED_ON = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "DO_NOT_TRACK", "BOOSTERSHOT_")  # beginnings of variables
Tell = Callable[[tuple[Any, ...]], None]


@dataclass(frozen=True)
class Task:
    """A call `work(stages, *args)` that is made of stages, in this process or in others.

    It may be made several times, until all of its stages are done: what takes long, or changes anything, belongs into
    a stage, and it must ask for the same stages each time. The last call's result is the task's.

    Args:
        work: a function of a module; its first argument is the run's `Stages` (or the same with another recipe, on
            the same store).
        args: plain values, which are pickled.
        spares: what is wrong in what the user gave fails this task, and does not end the run.
    """

    work: Callable[..., Any]
    args: tuple[Any, ...] = ()
    spares: bool = False

    def outcome(self, value: Any) -> Any:
        """What the task's result, or the exception that ended it, is to the run.

        Raises:
            InputError, StageFailed: the exception, where it ends the run.
        """
        if isinstance(value, Exception):
            value = StageFailed(str(value)) if self._spared(value) else value
            told(value)
        return value

    def _spared(self, error: Exception) -> bool:
        return self.spares and isinstance(error, InputError) and not isinstance(error, Unusable)


Map = Callable[[Sequence[Task]], Sequence["Path | Exception"]]  # results in order, failures as values


@dataclass(frozen=True)
class Order:
    """One stage to do: the next that a task needs."""

    recipe: Recipe
    root: Path
    task: Task
    wanted: str
    """The name of the stage's folder."""
    failed: Mapping[str, str]
    """The stages that failed in this run and what they said; a task may go on without them."""
    threads: int
    """For torch: the leader's own number, so that a result does not depend on who computed it."""

    def packed(self) -> bytes:
        """For `perform`, in another process."""
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return pickle.dumps((environment, os.getcwd(), pickle.dumps(self)))


@dataclass(frozen=True)
class Outcome:
    """How a stage ended; words in place of the exception, which not every process could read."""

    kind: Literal["done", "failed", "wrong input", "unusable folder", "full disk", "lost"]
    said: str = ""

    @classmethod
    def of(cls, error: Exception) -> Outcome:
        """The outcome of a stage that raised this."""
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, InputError):
            return cls("unusable folder" if isinstance(error, Unusable) else "wrong input", said)
        full = isinstance(error, StageFailed) and disk_is_full(error.__cause__)
        return cls("full disk" if full else "failed", said)

    def error(self) -> Exception:
        """What the stage raised, as `store.told` knows it."""
        if self.kind == "wrong input":
            return InputError(self.said)
        if self.kind == "unusable folder":
            return Unusable(self.said)
        error = StageFailed(self.said)
        if self.kind == "full disk":
            error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return error


class Workers(Protocol):
    """Processes that do orders, each one at a time."""

    retries: int
    """How often an order is given again whose worker was lost."""

    @property
    def free(self) -> bool:
        """Whether another order can be taken."""
        ...

    def start(self, order: Order) -> None:
        """Take an order."""
        ...

    def next(self) -> tuple[Order, Outcome]:
        """Wait for the first of the orders to end."""
        ...

    def close(self) -> None:
        """Stop all workers; what they were doing is interrupted, and goes on in the next run."""
        ...


def perform(message: bytes, tell: Tell) -> Outcome:
    """Do a packed order.

    Args:
        message: from `Order.packed`.
        tell: is given `("line", text)`, `("bar", what, total)`, `("advance", n)` and `("closed",)` meanwhile.

    Returns:
        how it ended; a stop (SystemExit, KeyboardInterrupt) is raised.
    """
    environment, folder, order = pickle.loads(message)
    os.environ.update(environment)
    os.chdir(folder)  # paths in a recipe may be relative
    from boostershot.pipeline.worker import do

    return do(pickle.loads(order), tell)
