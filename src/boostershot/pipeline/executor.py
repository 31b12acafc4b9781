"""Who does the stages of a run: this process, others on this machine, those of a launcher, or a Ray cluster.

The leader, which is the process that holds the run folder, calls each task with a store that only looks: it tells the
stages that the task needs next. Workers do them, and the task is called again, until nothing is missing. So a task is
ordinary code that asks for stages; nobody has to describe what depends on what, and the result is that of calling it
with no workers at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from boostershot.errors import InputError
from boostershot.pipeline import together
from boostershot.pipeline.locks import free_if_lost
from boostershot.pipeline.orders import Order, Task, Workers
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import SHARED, Missing, appears


class Executor:
    """Does tasks on a run's stages.

    Args:
        stages: of the run. From now on a stage that failed is not tried again on their store.
        workers: None where this process does all itself.
    """

    def __init__(self, stages: Stages, workers: Workers | None = None):
        self.stages, self.workers = stages, workers
        stages.store.failed = {}

    def map(self, tasks: Sequence[Task]) -> list[Any]:
        """The tasks' results in order; in place of a result, the exception of a task that failed.

        Tasks may share stages: none is done twice.

        Raises:
            InputError, StageFailed: what the user gave is wrong, the disk is full, or the cluster is lost.
        """
        if self.workers is None:
            return [task.outcome(_called(task, self.stages)) for task in tasks]
        return _Spread(self.stages, self.workers, tasks).results()


@contextmanager
def opened(stages: Stages) -> Iterator[Executor]:
    """The executor that the recipe's `runtime` asks for; its workers, if any, end with the body.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address; or a launcher's processes cannot share
            the recipe's alignment.
    """
    runtime, processes = stages.recipe.runtime, together.leading()
    if processes is not None:
        if runtime.executor != "local" or runtime.processes > 1:
            raise InputError("runtime: expected executor: local and processes: 1 where a launcher starts the processes")
        together.check(stages.recipe.immunize, processes.count)
        workers: Workers = together.TogetherWorkers(processes, stages.reporter)
    elif runtime.executor == "local" and runtime.processes == 1:
        yield Executor(stages)
        return
    elif runtime.executor == "local":
        from boostershot.pipeline.local_workers import LocalWorkers

        workers = LocalWorkers(runtime.processes, stages.reporter)
    else:
        from boostershot.pipeline.ray_workers import RayWorkers

        workers = RayWorkers(runtime, torch.get_num_threads(), stages.reporter)
    try:
        yield Executor(stages, workers)
    finally:
        workers.close()


class _Spread:
    """One `map` over workers."""

    def __init__(self, stages: Stages, workers: Workers, tasks: Sequence[Task]):
        self.stages, self.workers, self.tasks = stages, workers, tasks
        self.store = stages.store
        self.found: dict[int, Any] = {}  # task -> result
        self.waiting: dict[str, set[int]] = {}  # stage folder -> the tasks that miss it
        self.queue: list[tuple[int, Order, str | None]] = []  # a task that misses it, what to do, beside what not
        self.running: dict[str, str | None] = {}  # stage folder -> beside what it must not run
        self.lost: dict[str, int] = {}  # stage folder -> how many of its workers were lost

    def results(self) -> list[Any]:
        """Those of the tasks, in order."""
        failed = self.store.failed
        assert failed is not None
        for number in range(len(self.tasks)):
            self._look(number)
        while len(self.found) < len(self.tasks) or self.running:
            self._start()
            order, outcome = self.workers.next()
            name, alone = order.wanted, self.running.pop(order.wanted)
            if outcome.kind == "lost":
                self.lost[name] = self.lost.get(name, 0) + 1
                if self.lost[name] <= self.workers.retries:
                    self.stages.reporter.line(f"{outcome.said}; it is begun again")
                    self._begin(order, alone)
                    continue
            if outcome.kind != "done":
                failed[name] = outcome.error()
                for number in self.waiting[name]:
                    self.tasks[number].outcome(failed[name])
            elif not appears(folder := self.store.root / "stages" / name):
                raise InputError(f"{folder}: a worker has done it, and it is not here; {SHARED}")
            for number in sorted(self.waiting.pop(name)):
                if number not in self.found:
                    self._look(number)
        return [self.found[number] for number in range(len(self.tasks))]

    def _look(self, number: int) -> None:
        """Call a task: it gets through, or the stages that it misses are queued."""
        task = self.tasks[number]
        self.store.missed.clear()
        value = None
        with self.store.looking(), self.store.apart():
            value = _called(task, self.stages)
        if not self.store.missed:
            self.found[number] = task.outcome(value)
        for missing in self.store.missed:
            name = missing.folder.name
            if name not in self.waiting:
                failed = {folder: str(error) for folder, error in (self.store.failed or {}).items()}
                order = Order(self.stages.recipe, self.store.root, task, name, failed, torch.get_num_threads())
                self.queue.append((number, order, _alone(missing)))
            self.waiting.setdefault(name, set()).add(number)
        self.queue.sort(key=lambda one: one[0])  # what has begun ends before more begins

    def _start(self) -> None:
        """Give out what can be done now."""
        for one in list(self.queue):
            _, order, alone = one
            if not self.workers.free or self.waiting[order.wanted] <= self.found.keys():
                continue
            if alone is None or alone not in self.running.values():
                self.queue.remove(one)
                self._begin(order, alone)

    def _begin(self, order: Order, alone: str | None) -> None:
        free_if_lost(self.store.root / "stages" / order.wanted)
        self.running[order.wanted] = alone
        self.workers.start(order)


def _called(task: Task, stages: Stages) -> Any:
    """The task's result, or the exception that ended it."""
    try:
        return task.work(stages, *task.args)
    except Exception as error:
        return error


def _alone(missing: Missing) -> str | None:
    """What a stage must not run beside: another judging by the same judge, who might be asked twice about an answer."""
    return json.dumps(missing.config["judge"], sort_keys=True) if missing.stage == "evaluate" else None
