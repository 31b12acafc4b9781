"""Judgements that are kept: one SQLite file in the run folder, so that no answer is judged twice by the same judge.

The key is a hash of the judge's identity (settings and version), the prompt and the answer (and of what it was compared
with), and of a model on this machine also of the batch; no text is in the file. SQLite makes each batch whole or absent
whenever the process is killed, and lets two processes write. Every verdict carries a checksum: one that is not what was
written is asked for again, and a file that SQLite cannot read is set aside.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boostershot.errors import StageFailed
from boostershot.evaluation.judges.judge import Ask, Judged, Verdict, no_progress

FORMAT = 1  # of a verdict in the file
_COLUMNS = "key, judge, verdict, prompt_tokens, completion_tokens, checksum"
_TABLE = (
    "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, judge TEXT, verdict TEXT, prompt_tokens INTEGER, "
    "completion_tokens INTEGER, checksum TEXT) WITHOUT ROWID"
)
BATCH = 32  # judgements that are kept at once: at most so many are lost by a kill
_PATIENCE = 60.0  # seconds for another process's write


class Judgements:
    """The file; `kept.by(identity, judge)` is the judge with a memory."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with self._open() as db:
                db.execute(_TABLE)
                sound = db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except _Damaged:
            sound = False
        if not sound:
            aside = path.with_name(path.name + ".damaged")
            warnings.warn(f"{path}: is damaged; set aside as {aside.name}, and answers are judged again", stacklevel=2)
            os.replace(path, aside)
            with self._open() as db:
                db.execute(_TABLE)

    def by(
        self, identity: Mapping[str, Any], judge: Callable[[], Ask[Judged]], *, together: bool = False
    ) -> Ask[Judged]:
        """A judge that asks `judge()` only about what it has not judged yet, and then keeps the verdict.

        Args:
            identity: all that determines a verdict, JSON data.
            judge: opens it; not called where every verdict is known.
            together: by rounding, a verdict depends on what the judge reads beside it. Batches are then a matter of all
                pairs, known or not, and a verdict belongs to its batch, which is judged whole where it lacks one: no
                bit depends on which cells were judged before, or on what was lost.
        """

        def remembering(pairs: Sequence[Judged], advance: Callable[[int], None] = no_progress) -> list[Verdict]:
            name, times = _hash([FORMAT, identity]), Counter(pairs)
            batches = _cut(list(times), BATCH) if together else []
            beside = {pair: [batch] for batch in batches for pair in batch}
            keys = {pair: _hash([name, *beside.get(pair, ()), *pair]) for pair in times}
            stored = self._known(list(keys.values()))
            known = {pair: stored[key] for pair, key in keys.items() if key in stored}
            advance(sum(times[pair] for pair in known))
            missing = [pair for pair in times if pair not in known]
            opened = judge() if missing else None
            if not together:
                batches = _cut(missing, getattr(opened, "batch", BATCH))
            for batch in batches:
                if all(pair in known for pair in batch):
                    continue
                assert opened is not None
                said = zip(batch, opened(batch, no_progress), strict=True)
                new = {pair: verdict for pair, verdict in said if pair not in known}
                self._keep(name, {keys[pair]: verdict for pair, verdict in new.items() if verdict.final})
                known |= new
                advance(sum(times[pair] for pair in new))
            return [known[pair] for pair in pairs]

        return remembering

    def spent(self, identity: Mapping[str, Any]) -> tuple[int, int, int]:
        """(judgements, prompt tokens, completion tokens) of this judge in the file."""
        with self._open() as db:
            query = f"SELECT {_COLUMNS} FROM verdicts WHERE judge = ?"
            rows = [row for row in db.execute(query, (_hash([FORMAT, identity]),)) if _whole(row)]
        return len(rows), sum(read for *_, read, _, _ in rows), sum(written for *_, written, _ in rows)

    def _known(self, keys: list[str]) -> dict[str, Verdict]:
        """The verdicts of these keys that are there; those that are not what was written are deleted."""
        found = {}
        with self._open() as db, db:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                query = f"SELECT {_COLUMNS} FROM verdicts WHERE key IN ({', '.join('?' * len(some))})"
                rows = db.execute(query, some).fetchall()
                found |= {row[0]: _verdict(row[2]) for row in rows if _whole(row)}
                damaged = [(row[0],) for row in rows if not _whole(row)]
                db.executemany("DELETE FROM verdicts WHERE key = ?", damaged)
        return found

    def _keep(self, judge: str, found: Mapping[str, Verdict]) -> None:
        rows = [
            [key, judge, json.dumps(asdict(verdict)), verdict.prompt_tokens, verdict.completion_tokens]
            for key, verdict in found.items()
        ]
        with self._open() as db, db:  # the inner one commits, or rolls back
            values = [(*row, _hash(row)) for row in rows]
            db.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?)", values)

    def _open(self) -> Any:
        return _Connection(self.path)


def _cut(pairs: Sequence[Judged], size: int) -> list[Sequence[Judged]]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


class _Connection:
    """A connection that is closed at the end, and whose troubles are told in a line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> sqlite3.Connection:
        self.db = sqlite3.connect(self.path, timeout=_PATIENCE)
        self.db.text_factory = lambda text: text.decode(errors="replace")  # a damaged one fails its checksum
        return self.db

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.db.close()
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            raise OSError(errno.ENOSPC, str(error), str(self.path)) from error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise _Damaged(
                f"{self.path}: is damaged ({error}); the same command sets it aside and judges again"
            ) from None


class _Damaged(StageFailed):
    """SQLite cannot read the file."""


def _whole(row: Sequence[Any]) -> bool:
    """Is a row what was written?"""
    *values, checksum = row
    return checksum == _hash(values)


def _verdict(text: str) -> Verdict:
    values = json.loads(text)
    return Verdict(**values | {"labels": tuple(values["labels"])})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()
