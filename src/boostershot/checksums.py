"""Whether files are what was written: sizes and checksums, read once for as long as a file stays untouched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Checksums = dict[str, dict[str, Any]]

# (device, inode, size, time of the last change) -> checksum. That time is the kernel's: no program can set it, so a
# file is read again whenever it was written to, and a run that asks for a stage twenty times reads it once.
_known: dict[tuple[int, int, int, int], str] = {}


def checksums(folder: Path, counts: Callable[[str], bool] = lambda name: True) -> Checksums:
    """Size and SHA-256 of every file below the folder whose name, relative to it and with slashes, counts."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and counts(name):
            files[name] = {"size": path.stat().st_size, "sha256": checksum(path)}
    return files


def difference(folder: Path, expected: Mapping[str, Mapping[str, Any]]) -> str | None:
    """In what the folder differs from what `checksums` found there before, or None; further files do not matter."""
    for name, one in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != one["size"]:
            return f"{name} has {size} bytes in place of {one['size']}"
        if checksum(path) != one["sha256"]:
            return f"{name} is not what was written"
    return None


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    about = path.stat()
    key = (about.st_dev, about.st_ino, about.st_size, about.st_ctime_ns)
    if key not in _known:
        with path.open("rb") as file:
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON record with a checksum of itself as `seal`."""
    return {**record, "seal": _seal(record)}


def unsealed(record: Any) -> dict[str, Any]:
    """The record in a `sealed` one.

    Raises:
        ValueError: it is not what was sealed.
    """
    if not isinstance(record, dict) or "seal" not in record:
        raise ValueError("carries no seal")
    content = {key: value for key, value in record.items() if key != "seal"}
    if record["seal"] != _seal(content):
        raise ValueError("is not what was written")
    return content


def _seal(record: Mapping[str, Any]) -> str:
    read_back = json.loads(json.dumps(record))  # with keys and lists as a reader will find them
    return hashlib.sha256(json.dumps(read_back, sort_keys=True).encode()).hexdigest()
