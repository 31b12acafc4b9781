"""One command in several processes that a launcher started (accelerate launch, torchrun): the first leads.

The first process does what the command says, as if it were alone. A stage that all are to do together is an order in
the launcher's key-value store: each process then starts a child for it, with the launcher's environment, and only the
children are ever inside a collective. So whoever waits looks at the store, sees who failed or is gone, and stops its
child.

order/N   what the N-th stage is, or how the command ended
failed/N/RANK   how its child ended and what it said, where a process could not do it
over/N   the first process has its outcome; free/N/RANK   its child ended
beat/RANK   counts up while the process lives; bye/RANK   it has read how the command ended
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait

from boostershot.config import Immunize
from boostershot.errors import InputError, StageFailed
from boostershot.pipeline.local_workers import LocalWorkers, Process
from boostershot.pipeline.orders import Order, Outcome
from boostershot.pipeline.progress import Reporter

SILENCE = 30.0  # seconds without a beat after which a process is taken for gone
_BEAT = 2.0
_LOOK = 0.2
_FAREWELL = 10.0
_END = b"end "
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_BROKEN = ("connection closed", "connection reset", "broken pipe", "gloo", "nccl")
_TAKEN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP")
_TAKEN_BEGINNINGS = ("GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "FSDP_")

Ended = tuple[int, str]  # an exit code, and what to say on the standard error, if anything


def run(command: Callable[[], Ended]) -> Ended:
    """Lead the command, or follow where another process leads it; how it ended, which is the same for all."""
    processes = Processes()
    if processes.rank > 0:
        try:
            return _follow(processes)
        except KeyboardInterrupt:  # the first process says it
            return 130, ""
    _leading.append(processes)
    ended = (1, "was stopped by an error")
    try:
        ended = command()
        return ended
    finally:
        _leading.clear()
        processes.end(*ended)


def leading() -> Processes | None:
    """The processes that this one leads."""
    return _leading[0] if _leading else None


_leading: list[Processes] = []


class Processes:
    """The launcher's processes, and what they tell each other. Takes what they are out of the environment.

    Raises:
        InputError: a variable that a launcher sets is missing, or no number.
    """

    def __init__(self) -> None:
        from torch.distributed.rendezvous import rendezvous

        for name in _NEEDED:
            value = os.environ.get(name, "")
            if not value or (name != "MASTER_ADDR" and not value.isdecimal()):
                raise InputError(
                    f"{name} is {value or 'not set'}; expected what accelerate launch and torchrun set, or no RANK in "
                    "the environment"
                )
        self.store, self.rank, self.count = next(rendezvous("env://"))
        names = [n for n in os.environ if n in _TAKEN or n.startswith(_TAKEN_BEGINNINGS)]
        self.environment = {name: os.environ.pop(name) for name in names}
        self.environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store runs, and a child is its client
        self.orders = 0
        self._beats: dict[int, tuple[str, float]] = {}
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def others(self) -> list[int]:
        """Their ranks."""
        return [rank for rank in range(self.count) if rank != self.rank]

    def tell(self, key: str, value: str | bytes = "yes") -> None:
        """Let all know."""
        self.store.set(f"boostershot/{key}", value)  # pyright: ignore[reportArgumentType] - of torch's annotations

    def told(self, key: str) -> bytes | None:
        """What somebody let all know, if he has."""
        key = f"boostershot/{key}"
        return self.store.get(key) if self.store.check([key]) else None

    def gone(self, rank: int) -> bool:
        """Has this process been silent for long?"""
        beat, now = str(self.told(f"beat/{rank}")), time.monotonic()
        if rank not in self._beats or self._beats[rank][0] != beat:
            self._beats[rank] = (beat, now)
        return now - self._beats[rank][1] > SILENCE

    def child(self) -> Process:
        """A process for the present order."""
        return Process(self.environment | {"BOOSTERSHOT_ORDER": str(self.orders)})

    def end(self, code: int, said: str) -> None:
        """Tell the others how the command ended, and wait a little until they know."""
        until = time.monotonic() + _FAREWELL
        with suppress(RuntimeError):  # the launcher has gone, and its store with it
            self.tell(f"order/{self.orders + 1}", _END + json.dumps([code, said]).encode())
            while time.monotonic() < until and not all(self.told(f"bye/{rank}") for rank in self.others):
                time.sleep(_LOOK)

    def _beat(self) -> None:
        count = 0
        with suppress(RuntimeError):  # the launcher has gone, and its store with it
            while True:
                self.tell(f"beat/{self.rank}", str(count := count + 1))
                time.sleep(_BEAT)


class TogetherWorkers:
    """Workers that align models in all of the launcher's processes together, and do everything else in one."""

    retries = 0

    def __init__(self, processes: Processes, reporter: Reporter):
        self.processes, self.reporter = processes, reporter
        self._alone = LocalWorkers(1, reporter)
        self._busy = False
        self._together: Process | None = None

    @property
    def free(self) -> bool:
        """Whether nothing is being done."""
        return not self._busy

    def start(self, order: Order) -> None:
        """Give the order to all, or to one."""
        self._busy = True
        if not order.wanted.startswith("immunize-"):
            self._alone.start(order)
            return
        self.processes.orders += 1
        self.processes.tell(f"order/{self.processes.orders}", order.packed())
        self._together = self.processes.child()
        self._together.begin(order)

    def next(self) -> tuple[Order, Outcome]:
        """Show what the process here tells, until all have ended."""
        if self._together is None:
            found = self._alone.next()
        else:
            found = self._together.order, self._next_of_all(self._together)
            self._together = None
        self._busy = False
        return found

    def close(self) -> None:
        """Stop the processes here; the others learn it from how the command ends."""
        if self._together is not None:
            self._together.stop()
        self._alone.close()

    def _next_of_all(self, process: Process) -> Outcome:
        number, own, until = self.processes.orders, None, math.inf
        found: list[Outcome] = []
        while not any(map(_is_the_cause, found)) and time.monotonic() < until:
            if own is not None:
                time.sleep(_LOOK)
            elif wait([process.connection], _LOOK):
                own = process.heard(self.reporter)
            found = [*([own] if own is not None else []), *self._failures(number)]
            if found and until == math.inf:  # a cause may be told a little later than what it brings about
                until = time.monotonic() + 10 * _LOOK
        outcome = next(filter(_is_the_cause, found), found[0])
        process.stop()
        self.processes.tell(f"over/{number}")
        while not all(self.processes.told(f"free/{number}/{rank}") for rank in self.processes.others):
            self._check_alive()
            time.sleep(_LOOK)
        return outcome

    def _failures(self, number: int) -> list[Outcome]:
        self._check_alive()
        found = []
        for rank in self.processes.others:
            told = self.processes.told(f"failed/{number}/{rank}")
            if told is not None:
                kind, said = json.loads(told)
                found.append(Outcome(kind, f"process {rank} of {self.processes.count}: {said}"))
        return found

    def _check_alive(self) -> None:
        for rank in self.processes.others:
            if self.processes.gone(rank):
                raise StageFailed(f"process {rank} of {self.processes.count} is gone; what is done is kept")


def _is_the_cause(outcome: Outcome) -> bool:
    """Did a child end of itself? Where another failed or died, one only sees its connection break."""
    return outcome.kind != "failed" or not any(words in outcome.said.lower() for words in _BROKEN)


def check(immunize: Immunize, processes: int) -> None:
    """Raises InputError if the alignment cannot be spread over the processes."""
    if immunize.batch % processes:
        batch = immunize.batch
        raise InputError(f"immunize.batch is {batch}; expected a multiple of the {processes} processes that share it")
    if immunize.cached_layers:
        raise InputError(
            f"immunize.cached_layers is {immunize.cached_layers}; expected 0 where processes share a batch"
        )


def join() -> None:
    """In a child of an order that all do together: meet the children of the others. Elsewhere nothing."""
    number = os.environ.get("BOOSTERSHOT_ORDER")
    if number is None:
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(rendezvous("env://"))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cuda:nccl,cpu:gloo"
    # Names of its own: the addresses of the order before are still in the store.
    dist.init_process_group(backend, store=dist.PrefixStore(f"order {number}", store), rank=rank, world_size=count)


def _follow(processes: Processes) -> Ended:
    """Do orders beside the first process until the command ends."""
    try:
        while True:
            processes.orders += 1
            while (message := processes.told(f"order/{processes.orders}")) is None:
                if processes.gone(0):
                    return 1, f"process {processes.rank}: the first process is gone"
                time.sleep(_LOOK)
            if message.startswith(_END):
                code, said = json.loads(message.removeprefix(_END))
                processes.tell(f"bye/{processes.rank}")
                failed = code == 1  # wrong input is told once, by the first process
                return code, f"process {processes.rank}: the first process has ended: {said}" if failed else ""
            if not _beside(processes, message):
                return 1, f"process {processes.rank}: the first process is gone"
    except RuntimeError as error:  # of the store, which ends with the launcher
        return 1, f"process {processes.rank}: the launcher is gone: {str(error).splitlines()[0]}"


def _beside(processes: Processes, message: bytes) -> bool:
    """Do one order; False if the first process is gone meanwhile."""
    number, outcome = processes.orders, None
    process = processes.child()
    try:
        process.send(message)
        while not processes.told(f"over/{number}"):
            if outcome is None and wait([process.connection], _LOOK):
                outcome = process.heard(Reporter(quiet=True))
                if outcome is not None and outcome.kind != "done":
                    kind = "failed" if outcome.kind == "lost" else outcome.kind  # only the leader's own has a lock
                    processes.tell(f"failed/{number}/{processes.rank}", json.dumps([kind, outcome.said]))
            elif processes.gone(0) or processes.told(f"order/{number + 1}"):  # where it was stopped in between
                return not processes.gone(0)
            elif outcome is not None:
                time.sleep(_LOOK)
    finally:
        process.stop()
    processes.tell(f"free/{number}/{processes.rank}")
    return True
