"""Workers on a Ray cluster, one of the user's or one that is started here: each stage is a Ray task."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

from boostershot.errors import InputError, StageFailed
from boostershot.pipeline.orders import Order, Outcome, perform

if TYPE_CHECKING:
    from boostershot.config.recipe import Runtime
    from boostershot.pipeline.progress import Reporter

INSTALL_RAY = "pip install '.[ray]'"
_CHECK = 10.0  # seconds between looks at a cluster that says nothing: Ray ends a process whose cluster is gone for 60
_GRACE = 10.0  # seconds that tasks have to stop in


class RayWorkers:
    """A connection to a cluster; as many stages at once as its CPUs and GPUs allow.

    The nodes need the same installation, and the run folder and the recipe's files under the same paths.

    Args:
        runtime: `address` of an existing cluster, or None: one is started here, for `processes` stages at once; `gpus`
            a stage.
        threads: of torch, and so CPUs, a stage.
        reporter: told what the tasks say, when each has ended.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    retries = 3  # nodes that come and go are usual there
    free = True  # Ray queues

    def __init__(self, runtime: Runtime, threads: int, reporter: Reporter):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise InputError(f"runtime.executor: is ray, which is not installed; {INSTALL_RAY}") from None
        self.reporter = reporter
        self._running: dict[Any, Order] = {}
        given = runtime.address
        if given not in (None, "auto") and not _answers(given):
            raise InputError(
                f"runtime.address: nothing answers at {given}; expected a Ray cluster's HOST:PORT, or auto"
            )
        cluster: dict[str, Any] = {"address": given} if given else {
            "address": "local",
            "num_cpus": runtime.processes * threads,
            "include_dashboard": False,
        }  # fmt: skip
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**cluster, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            raise InputError(
                f"runtime.address: {given or 'a local cluster'}: {said}; expected a running Ray cluster of which this "
                "machine is a node (and RAY_AUTH_MODE=token, where it asks for a token)"
            ) from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray takes it over
        self._address = ray.get_runtime_context().gcs_address
        self._remote = ray.remote(num_cpus=threads, num_gpus=runtime.gpus, max_retries=0)(_do)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= runtime.gpus for node in nodes):
            asked = f"{threads} CPUs" + (f" and {runtime.gpus:g} GPUs" if runtime.gpus else "")
            reporter.line(f"no node of the Ray cluster has {asked} (runtime.threads, runtime.gpus); waiting for one")

    def start(self, order: Order) -> None:
        """Hand the order to Ray."""
        self._running[self._remote.remote(order.packed())] = order

    def next(self) -> tuple[Order, Outcome]:
        """Wait for the first of the orders to end.

        Raises:
            StageFailed: the cluster is gone.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        while True:
            ended, _ = ray.wait(list(self._running), timeout=_CHECK)
            if ended:
                break
            self._check()
        order = self._running.pop(ended[0])
        try:
            outcome, lines = ray.get(ended[0])
        except RayTaskError as error:  # before the stage began: boostershot is not installed there, say
            return order, Outcome.of(error.cause if isinstance(error.cause, Exception) else error)
        except RayError as error:
            self._check()
            said = str(error).strip().splitlines()[0]
            return order, Outcome("lost", f"{order.wanted}: its Ray worker was lost ({type(error).__name__}: {said})")
        for line in lines:
            self.reporter.line(line)
        return order, outcome

    def close(self) -> None:
        """Interrupt what runs, and leave the cluster; one that was started here ends."""
        import ray

        for running in self._running:
            ray.cancel(running)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=_GRACE)
        ray.shutdown()

    def _check(self) -> None:
        if not _answers(self._address):
            self._running.clear()
            raise StageFailed(
                f"the Ray cluster at {self._address} is lost; what is finished stays, and the same command goes on"
            )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def _do(message: bytes) -> tuple[Outcome, list[str]]:
    """The Ray task: a stage, and the lines that it had to say."""
    lines: list[str] = []
    outcome = perform(message, lambda told: lines.append(told[1]) if told[0] == "line" else None)
    return outcome, lines
