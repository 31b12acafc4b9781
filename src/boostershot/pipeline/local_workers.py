"""Workers as processes on this machine.

Each is a fresh interpreter with a socket to the leader, and not one of `multiprocessing`: that would import the user's
script again, and its pool gives up all workers when one dies. A session of its own keeps Ctrl-C from reaching it.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, Pipe, wait
from types import FrameType, MappingProxyType
from typing import Any, NoReturn

from boostershot.pipeline.orders import Order, Outcome, perform
from boostershot.pipeline.progress import Reporter

_GRACE = 10.0  # seconds that workers have to stop in


class LocalWorkers:
    """Up to so many processes, started as orders come in.

    Args:
        processes: at most at once.
        reporter: shows what they do.
    """

    retries = 1

    def __init__(self, processes: int, reporter: Reporter):
        self.processes, self.reporter = processes, reporter
        self._idle: list[Process] = []
        self._busy: dict[Any, Process] = {}  # by its connection

    @property
    def free(self) -> bool:
        """Whether a process is idle, or another may be started."""
        return len(self._busy) < self.processes

    def start(self, order: Order) -> None:
        """Give the order to an idle process, or a new one."""
        process = self._idle.pop() if self._idle else Process()
        process.begin(order)
        self._busy[process.connection] = process

    def next(self) -> tuple[Order, Outcome]:
        """Show what the processes tell, until one has done its order or has died."""
        while True:
            for connection in wait(list(self._busy)):
                process = self._busy[connection]
                outcome = process.heard(self.reporter)
                if outcome is not None:
                    del self._busy[process.connection]
                    if outcome.kind != "lost":
                        self._idle.append(process)
                    return process.order, outcome

    def close(self) -> None:
        """Stop all processes."""
        processes = [*self._busy.values(), *self._idle]
        for process in processes:
            process.popen.terminate()
        until = time.monotonic() + _GRACE
        for process in processes:
            process.ended(max(0.0, until - time.monotonic()))
        self._busy, self._idle = {}, []


class Process:
    """A process, the order that it does, and the bars that show it.

    Args:
        environment: what it has besides the environment here.
    """

    order: Order

    def __init__(self, environment: Mapping[str, str] = MappingProxyType({})):
        self.connection, there = Pipe()
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        code = "import sys; from boostershot.pipeline.local_workers import serve; serve(int(sys.argv[1]))"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code, str(there.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path} | dict(environment),
        )
        there.close()
        self._bars: list[tuple[ExitStack, Any]] = []
        self._what = "a stage"

    def begin(self, order: Order) -> None:
        """Let it do an order."""
        self.order, self._what = order, order.wanted
        self.send(order.packed())

    def send(self, message: bytes) -> None:
        """Let it do a packed order."""
        with suppress(OSError):  # it died idle; the next read tells
            self.connection.send_bytes(message)

    def heard(self, reporter: Reporter) -> Outcome | None:
        """Show its next message; an outcome if that was one, or if it died."""
        try:
            message: Any = self.connection.recv()
        except (EOFError, OSError):
            code = self.ended(_GRACE)
            return Outcome("lost", f"{self._what}: its process {_how(code)}")
        if isinstance(message, Outcome):
            return message
        kind, *values = message
        if kind == "line":
            reporter.line(*values)
        elif kind == "bar":
            stack = ExitStack()
            self._bars.append((stack, stack.enter_context(reporter.moving(*values))))
        elif kind == "advance":
            self._bars[-1][1](*values)
        elif kind == "closed":
            self._bars.pop()[0].close()
        return None

    def stop(self) -> None:
        """End it, gently at first."""
        self.popen.terminate()
        self.ended(_GRACE)

    def ended(self, seconds: float) -> int:
        """Its exit code, once it has ended by itself or was killed; its bars are gone."""
        try:
            code = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            code = self.popen.wait()
        self.connection.close()
        while self._bars:
            self._bars.pop()[0].close()
        return code


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "was killed (as it is when memory runs out)"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def serve(handle: int) -> None:
    """What a process does: the orders that come through the socket `handle`.

    A leader that stops sends SIGTERM, and the stage notes that it was interrupted. One that dies closes the socket, and
    the process ends at once as if killed, so that the next run finds nobody at work.
    """
    connection = Connection(handle)
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                orders.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=listen, daemon=True).start()
    while True:
        connection.send(perform(orders.get(), connection.send))
