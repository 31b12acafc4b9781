"""Locks that name their owner and outlive no one: a dead owner's lock is taken over."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from boostershot.errors import InputError
from boostershot.pipeline.files import disk_is_full, full_disk


class Unusable(InputError):
    """A folder cannot be worked in, whatever is to be done there."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make the folder, if it is missing, and hold it by its file `lock`.

    The file holds its owner's process id, host and start time, and is empty while nobody holds it. Whoever
    reads or writes it has the kernel's lock on it meanwhile: two cannot take over from the same dead owner.

    Raises:
        Unusable: a live process has it, or one on another host, of which nothing can be known; or the
            folder cannot be written.
        StageFailed: the disk is full.
    """
    path = folder / "lock"
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": _start_time(os.getpid())}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(path, mine)
    except OSError as error:
        if disk_is_full(error):
            raise full_disk(folder) from error
        reason = error.strerror or type(error).__name__
        raise Unusable(f"{folder}: cannot be written: {reason}; expected a folder of your own") from error
    try:
        yield
    finally:
        with suppress(OSError), _exclusive(path) as file:  # if it was removed meanwhile, nobody holds it
            if _owner(file) == mine:
                _write(file, b"")


def free_if_lost(folder: Path) -> None:
    """Free the folder's lock, if its owner is dead or on another host.

    For who holds the whole run folder, and knows that none of its workers works here: on another host only a worker
    that was lost can be the owner, and on this host another worker must not be told of a dead one elsewhere.
    """
    path = folder / "lock"
    with suppress(OSError), _exclusive(path, os.O_RDWR) as file:  # where that cannot be, the worker tells
        owner, host = _owner(file), socket.gethostname()
        if owner and (owner["host"] != host or not _may_live(owner, host)):
            _write(file, b"")


def _take(path: Path, mine: dict[str, Any]) -> None:
    with _exclusive(path) as file:
        owner = _owner(file)
        if owner and _may_live(owner, mine["host"]):
            elsewhere = "" if owner["host"] == mine["host"] else f" (if that is over, remove {path})"
            raise Unusable(
                f"{path.parent}: is being run by process {owner['pid']} on {owner['host']}; "
                f"expected a folder that nobody works in{elsewhere}"
            )
        _write(file, json.dumps(mine).encode())


@contextmanager
def _exclusive(path: Path, how: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    file = os.open(path, how | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _owner(file: int) -> dict[str, Any] | None:
    """Who holds the lock; nobody, if the file is empty or was being written when its owner died."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return None
    whole = isinstance(owner, dict) and {"pid", "host", "started"} <= owner.keys() and isinstance(owner["pid"], int)
    return owner if whole else None


def _write(file: int, content: bytes) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, content, 0)
    os.fsync(file)


def _may_live(owner: dict[str, Any], host: str) -> bool:
    if owner["host"] != host:
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there, and another user's
        pass
    started = _start_time(owner["pid"])
    return started is None or started == owner["started"]


def _start_time(pid: int) -> str | None:
    """When a process started, so that another with its number is not taken for it; None where unknown.

    "ended" is one that nobody has waited for: it has its number still.
    """
    try:
        # The name, in brackets, may itself hold brackets and spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return "ended" if fields[0] in "ZX" else f"{boot}/{fields[19]}"
