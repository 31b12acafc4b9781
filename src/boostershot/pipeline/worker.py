"""The inside of a worker: a store that does a single stage, and a task called until it asks for that stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from boostershot.config import Recipe
from boostershot.errors import StageFailed
from boostershot.pipeline import together
from boostershot.pipeline.orders import Order, Outcome, Tell
from boostershot.pipeline.progress import Advance, Reporter, quiet_libraries
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import PATIENCE, Store


class Ended(BaseException):
    """The stage that was asked for has ended, and the task goes no further here."""

    def __init__(self, outcome: Outcome):
        super().__init__(outcome)
        self.outcome = outcome


class OneStage(Store):
    """A store that does the stage `wanted` and no other.

    In a process that `helps` another one, which has the folder and writes what is to be kept, it does the work alone.
    """

    wanted = ""
    helps = False

    def run(
        self,
        stage: str,
        config: Mapping[str, Any],
        parents: Sequence[Path],
        work: Callable[[Path], Mapping[str, Any] | None],
    ) -> Path:
        """As in any store, but another stage that is not done is Missing, and Ended is raised after the wanted one."""
        folder = self.folder(stage, config, parents)
        if folder.name != self.wanted:
            with self.looking():
                return super().run(stage, config, parents, work)
        try:
            if self.helps:
                work(folder)
            else:
                super().run(stage, config, parents, work)
        except Exception as error:
            raise Ended(Outcome.of(error)) from error
        raise Ended(Outcome("done"))


class TellingReporter(Reporter):
    """Passes on to the leader what a person should see."""

    def __init__(self, tell: Tell):
        super().__init__()
        self.tell = tell

    def line(self, text: str) -> None:
        """For the leader to print."""
        self.tell(("line", text))

    @contextmanager
    def moving(self, what: str, total: int) -> Iterator[Advance]:
        """For the leader to draw."""
        self.tell(("bar", what, total))
        try:
            yield lambda n: self.tell(("advance", n))
        finally:
            self.tell(("closed",))


def do(order: Order, tell: Tell) -> Outcome:
    """The stage that is ordered, done; the base model and the judges stay loaded for the next one of the same run."""
    together.join()
    torch.set_num_threads(order.threads)
    stages, store, reporter = _of_run(order.recipe, order.root)
    reporter.tell, store.wanted = tell, order.wanted
    store.failed = {name: StageFailed(said) for name, said in order.failed.items()}
    until = time.monotonic() + PATIENCE
    while True:
        said = "was not asked for; a task must ask for the same stages each time"
        store.missed.clear()
        try:
            with store.apart():
                order.task.work(stages, *order.task.args)
        except Ended as ended:
            return ended.outcome
        except Exception as error:
            said = str(error)
        if time.monotonic() > until:
            return Outcome("failed", f"{order.wanted}: {said}")
        time.sleep(0.2)  # a stage that another machine has finished may not be seen here yet


_known: list[tuple[Stages, OneStage, TellingReporter]] = []  # of the run that this process works for


def _of_run(recipe: Recipe, root: Path) -> tuple[Stages, OneStage, TellingReporter]:
    if not _known or _known[0][0].recipe != recipe or _known[0][1].root != root:
        quiet_libraries()
        reporter = TellingReporter(lambda message: None)
        store = OneStage(root, reporter.line)
        store.helps = dist.is_initialized() and dist.get_rank() > 0
        _known[:] = [(Stages(recipe, store, reporter), store, reporter)]
    return _known[0]
