"""Answers on the disk while they are still being generated: what a kill leaves is read, and not generated again."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

from boostershot.pipeline.files import replace_text


class KeptAnswers:
    """A file with a line for each batch: a checksum and the answers by prompt.

    A line that was cut short, or that is not what was written, counts for nothing: its prompts are answered again.

    Args:
        path: the file; made with the first batch.
    """

    def __init__(self, path: Path):
        self.path = path
        self.answers: dict[str, str] = {}
        """By prompt."""
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        whole = [(line, batch) for line in text.split("\n") if (batch := _batch(line)) is not None]
        for _, batch in whole:
            self.answers |= batch
        if text != (kept := "".join(f"{line}\n" for line, _ in whole)):
            replace_text(path, kept)  # so that the next line begins a line

    def add(self, answers: Mapping[str, str]) -> None:
        """Append a batch; it is on the disk when this returns."""
        body = json.dumps(answers)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{_checksum(body)} {body}\n")
            file.flush()
            os.fsync(file.fileno())
        self.answers |= answers

    def drop(self) -> None:
        """Delete the file, once the answers are written elsewhere."""
        self.path.unlink(missing_ok=True)


def _batch(line: str) -> dict[str, str] | None:
    """The answers on a line; None where it is not whole."""
    checksum, _, body = line.partition(" ")
    return json.loads(body) if body and checksum == _checksum(body) else None


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
