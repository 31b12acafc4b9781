"""Judgements that are kept: one SQLite file in the run folder, so that no answer is judged twice by the same judge.

The key is a hash of the judge's identity (settings and version), the prompt and the answer; neither text is in the
file. SQLite makes each batch whole or absent whenever the process is killed, and lets two processes write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boostershot.errors import InputError
from boostershot.evaluation.judges.judge import Judge, Pairs, Verdict, no_progress

FORMAT = 1  # of a verdict in the file
BATCH = 32  # judgements that are kept at once: at most so many are lost by a kill
_PATIENCE = 60.0  # seconds for another process's write


class Judgements:
    """The file; `kept.by(identity, judge)` is the judge with a memory."""

    def __init__(self, path: Path):
        self.path = path
        with self._open() as db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, judge TEXT, verdict TEXT, "
                "prompt_tokens INTEGER, completion_tokens INTEGER) WITHOUT ROWID"
            )

    def by(self, identity: Mapping[str, Any], judge: Callable[[], Judge]) -> Judge:
        """A judge that asks `judge()` only about what it has not judged yet, and then keeps the verdict.

        Args:
            identity: all that determines a verdict, JSON data.
            judge: opens it; not called where every verdict is known.
        """

        def remembering(pairs: Pairs, advance: Callable[[int], None] = no_progress) -> list[Verdict]:
            name = _hash([FORMAT, identity])
            keys = [_hash([name, prompt, answer]) for prompt, answer in pairs]
            known = self._known(keys)
            advance(sum(key in known for key in keys))
            missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
            twice = sum(key not in known for key in keys) - len(missing)
            todo = list(missing.items())
            opened = judge() if todo else None
            size = getattr(opened, "batch", BATCH)
            for start in range(0, len(todo), size):
                batch = todo[start : start + size]
                assert opened is not None
                verdicts = opened([pair for _, pair in batch], advance)
                found = {key: verdict for (key, _), verdict in zip(batch, verdicts, strict=True)}
                self._keep(name, {key: verdict for key, verdict in found.items() if verdict.final})
                known |= found
            advance(twice)
            return [known[key] for key in keys]

        return remembering

    def spent(self, identity: Mapping[str, Any]) -> tuple[int, int, int]:
        """(judgements, prompt tokens, completion tokens) of this judge in the file."""
        with self._open() as db:
            query = "SELECT COUNT(*), TOTAL(prompt_tokens), TOTAL(completion_tokens) FROM judgements WHERE judge = ?"
            count, read, written = db.execute(query, (_hash([FORMAT, identity]),)).fetchone()
        return int(count), int(read), int(written)

    def _known(self, keys: list[str]) -> dict[str, Verdict]:
        found = {}
        with self._open() as db:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                query = f"SELECT key, verdict FROM judgements WHERE key IN ({', '.join('?' * len(some))})"
                found |= {key: _verdict(text) for key, text in db.execute(query, some)}
        return found

    def _keep(self, judge: str, found: Mapping[str, Verdict]) -> None:
        rows = [
            (key, judge, json.dumps(asdict(verdict)), verdict.prompt_tokens, verdict.completion_tokens)
            for key, verdict in found.items()
        ]
        with self._open() as db, db:  # the inner one commits, or rolls back
            db.executemany("INSERT OR IGNORE INTO judgements VALUES (?, ?, ?, ?, ?)", rows)

    def _open(self) -> Any:
        return _Connection(self.path)


class _Connection:
    """A connection that is closed at the end, and whose troubles are told in a line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> sqlite3.Connection:
        self.db = sqlite3.connect(self.path, timeout=_PATIENCE)
        return self.db

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.db.close()
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            raise OSError(errno.ENOSPC, str(error), str(self.path)) from error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise InputError(
                f"{self.path}: is damaged ({error}); delete it: answers are kept, and judged again"
            ) from None


def _verdict(text: str) -> Verdict:
    values = json.loads(text)
    return Verdict(**values | {"labels": tuple(values["labels"])})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
