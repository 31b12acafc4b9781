"""What a stage has found so far, on the disk: what a kill leaves is read, and not found out again."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boostershot.pipeline.files import replace_text


class Kept:
    """A file with a line for each addition: a checksum and JSON values by key.

    A line that was cut short, or that is not what was written, counts for nothing.

    Args:
        path: the file; made with the first addition.
    """

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, Any] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        whole = [(line, batch) for line in text.split("\n") if (batch := _batch(line)) is not None]
        for _, batch in whole:
            self.values |= batch
        if text != (kept := "".join(f"{line}\n" for line, _ in whole)):
            replace_text(path, kept)  # so that the next line begins a line

    def add(self, values: Mapping[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        body = json.dumps(values)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{_checksum(body)} {body}\n")
            file.flush()
            os.fsync(file.fileno())
        self.values |= values

    def drop(self) -> None:
        """Delete the file, once the values are written elsewhere."""
        self.path.unlink(missing_ok=True)


class KeptAnswers(Kept):
    """Answers by prompt, a batch a line; the prompts of one that counts for nothing are answered again."""

    @property
    def answers(self) -> dict[str, str]:
        """By prompt."""
        return self.values


def _batch(line: str) -> dict[str, Any] | None:
    """The values on a line; None where it is not whole."""
    checksum, _, body = line.partition(" ")
    return json.loads(body) if body and checksum == _checksum(body) else None


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
