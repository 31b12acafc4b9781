"""Whole runs in processes of their own, for tests that kill them.

The processes are forked from one that has imported everything (multiprocessing's forkserver): each starts at once.
"""

import functools
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

import boostershot.pipeline.grid  # noqa: F401 - so that no run waits for its imports
from boostershot import cli
from boostershot.checksums import checksum
from tiny import preference_rows, save_tiny_chat

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["forked"])
TIMES = ("seconds", "per_second", "peak_memory", "started", "ended")  # in the names of what no two runs share
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "sqlite3.connect", "fcntl.flock")


def user_folder(folder: Path) -> Path:
    """A model, data and a recipe of a defence and an attack; tells the recipe's path."""
    save_tiny_chat(folder / "model")
    rows = [{"id": f"syn-{i}", "category": "abc"[i % 3], **row} for i, row in enumerate(preference_rows(160))]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = [{"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes"} for i in range(120)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task))
    attack = {"method": "harmful-mix", "p": 0.25, "n": 16, "lr": 1e-2, "steps": 12, "batch": 4}
    recipe = {
        "name": "small",
        "model": {"id": str(folder / "model")},
        "data": {
            "align": {"source": str(folder / "pairs.jsonl"), "n": 16},
            "task": {"source": str(folder / "task.jsonl")},
        },
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 21, "batch": 4, "lora": {"rank": 4, "dropout": 0.1}},
        "defenses": {"booster": {"method": "booster", "lam": 5, "alpha": 0.1}},
        "attacks": {"mix/continue": attack | {"adapter": "continue", "eval_steps": [0, 4, 12]}},
        "evaluate": {"n_harmful": 8, "n_task": 6, "max_new_tokens": 3},
        "runtime": {"threads": 1, "generation_batch_size": 8},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def started(recipe: Path, out: Path, prepare: Callable[[], object] = int, *options: str) -> BaseProcess:
    """A run of the recipe in `out`, after `prepare()` in its process; what it says is added to `out`.log."""
    process = _CONTEXT.Process(target=_work, args=(prepare, ["run", str(recipe), "--out", str(out), *options], out))
    process.start()
    return process


def finished(recipe: Path, out: Path, prepare: Callable[[], object] = int, *options: str) -> tuple[int, str]:
    """The run's exit code (negative: the signal that ended it), and what it said."""
    log = out.with_suffix(".log")
    before = log.stat().st_size if log.exists() else 0
    process = started(recipe, out, prepare, *options)
    process.join()
    assert process.exitcode is not None
    return process.exitcode, log.read_text()[before:]


def _work(prepare: Callable[[], object], arguments: list[str], out: Path) -> None:
    with out.with_suffix(".log").open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare()
    sys.exit(cli.call(arguments))


def outcome(out: Path) -> dict[str, Any]:
    """All that a run leaves and that does not tell of time: results.json, and a checksum of each file of its stages."""
    files = {}
    for path in sorted((out / "stages").rglob("*")):
        if not path.is_file() or path.name in ("status.json", "lock"):
            continue
        timed = path.name in ("metrics.jsonl", "README.md")
        files[str(path.relative_to(out))] = _untimed(path) if timed else checksum(path)
    return {"results": _without_times(json.loads((out / "results.json").read_text())), "files": files}


def _untimed(path: Path) -> Any:
    lines = path.read_text().splitlines()
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in lines]
    return [line for line in lines if not any(word in line for word in ("second", "peak", "times"))]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if not any(word in key for word in TIMES)}
        return {key: _without_times(one) for key, one in kept.items()}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


# --- what happens to a run -----------------------------------------------------------------------------------------


def counting(path: Path) -> Callable[[], None]:
    """Count the run's file events into a file."""
    return functools.partial(_count, path)


def killed_at(event: int) -> Callable[[], None]:
    """SIGKILL at its n-th file event, as `counting` counts them."""
    return functools.partial(_kill_at, event)


def limited_to(size: int) -> Callable[[], None]:
    """No file of it can grow beyond so many bytes, as on a disk that is full."""
    return functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


class _Events:
    """An audit hook: calls back at each event. Hooks cannot be removed, which is why it is used in a child only."""

    def __init__(self, at: Callable[[int], None]):
        self.n, self.at = 0, at
        sys.addaudithook(self)

    def __call__(self, name: str, arguments: tuple) -> None:
        if name in EVENTS:
            self.n += 1
            self.at(self.n)


def _count(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    _Events(lambda n: os.pwrite(file, b"%d\n" % n, 0) and None)


def _kill_at(event: int) -> None:
    def at(n: int) -> None:
        if n == event:
            os.kill(os.getpid(), signal.SIGKILL)

    _Events(at)
