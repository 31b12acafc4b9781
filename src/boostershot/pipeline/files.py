"""Files of a run folder: JSON that exists whole or not at all, and what a full disk looks like."""

from __future__ import annotations

import datetime
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from boostershot.errors import InputError, StageFailed

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit on the size of a file (ulimit -f)
# How libraries that write from native code say it: safetensors and tokenizers, then torch.save.
_FULL_WORDS = ("no space left", "disk quota exceeded", "os error 28", "os error 122", "file too large")
_TORCH_WRITER, _TORCH_WORDS = "inline_container", ("unexpected pos", "failed writing file")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, atomically and to the disk; ValueError for nan or inf, which JSON cannot hold."""
    replace_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, atomically and to the disk; ValueError for nan or inf."""
    replace_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}; expected a JSON file") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of one JSON object a line.

    Raises:
        InputError: the file is missing, or a line is no JSON.
    """
    try:
        # Not splitlines: it also splits at characters that may stand inside a JSON string.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {_reason(error)}; expected one JSON object a line") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        InputError: it is missing or not one.
    """
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("recipes"), dict):
        raise InputError(f"{folder / 'manifest.json'}: has no recipes; expected the manifest of a run")
    return manifest


def now() -> str:
    """The time in UTC, as result files tell it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that the disk or the quota is used up."""
    while error is not None:
        said = str(error).lower()
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in said for words in _FULL_WORDS):
            return True
        if _TORCH_WRITER in said and any(words in said for words in _TORCH_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_disk(folder: Path) -> StageFailed:
    """The error to raise for it."""
    return StageFailed(
        f"{folder}: the disk is full (or a quota or limit is reached); free some space and give the same command again"
    )


def replace_text(path: Path, text: str) -> None:
    """Write a text file, atomically and to the disk."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)  # mkstemp makes a file for the owner's eyes only
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, must survive a power cut
    finally:
        os.close(folder)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
