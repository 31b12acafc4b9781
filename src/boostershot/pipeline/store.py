"""Stages as folders whose name says what is in them: done once, resumed after a stop, never half trusted.

DIR/lock                            held while a run works in DIR
DIR/stages/STAGE-HASH/lock          held while the stage is worked on
DIR/stages/STAGE-HASH/config.json
DIR/stages/STAGE-HASH/status.json   written last; only its word counts, never that a file is there
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boostershot.checksums import Checksums, checksums, difference, sealed, unsealed
from boostershot.errors import InputError, StageFailed, in_a_line
from boostershot.pipeline.files import disk_is_full, full_disk, now, read_manifest, write_json
from boostershot.pipeline.locks import lock

FORMAT = 1  # raise it when the same config would give other files than before
_OURS = ("lock", "status.json")
SHARED = "expected a run folder on storage that all workers share"
PATIENCE = 60.0  # seconds until what another machine wrote is seen on shared storage, at most


def stage_key(stage: str, config: Mapping[str, Any], parents: Sequence[Path | str]) -> str:
    """16 hex digits that change with anything that determines a stage's content.

    Args:
        stage: its name, such as `immunize`.
        config: JSON data; the order of its keys does not matter, runtime settings do not belong in it.
        parents: the folders of the stages that it reads, in a fixed order; their own names hold their keys.
    """
    names = [Path(parent).name for parent in parents]
    text = json.dumps([FORMAT, stage, config, names], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Missing(BaseException):
    """A stage has to be done first. No Exception: whoever handles stages that fail must not take it for one."""

    def __init__(self, stage: str, folder: Path, config: Mapping[str, Any]):
        super().__init__(folder.name)
        self.stage, self.folder, self.config = stage, folder, config


class Store:
    """The run folder `root` and its stages.

    Args:
        root: made where it is missing, when `claimed`.
        say: told in a line what a user should know, such as a damaged stage; the standard error by default.
    """

    def __init__(self, root: Path, say: Callable[[str], None] | None = None):
        self.root = root
        self.say = say or (lambda line: print(line, file=sys.stderr))
        self.failed: dict[str, Exception] | None = None
        """By its folder's name, why a stage failed: it is not tried again. None: each is tried when asked for."""
        self.missed: list[Missing] = []
        """What was missing inside `apart`."""
        self._looking = False

    @contextmanager
    def claimed(self, recipe_name: str) -> Iterator[None]:
        """Hold the folder for a run of this recipe: `with store.claimed(recipe.name): ...`

        Raises:
            InputError: the folder cannot be written, another process runs in it, or its manifest is of a
                recipe of another name.
            StageFailed: the disk is full.
        """
        with lock(self.root):
            earlier = (self.root / "manifest.json").exists()
            names = list(read_manifest(self.root)["recipes"]) if earlier else []
            if names and recipe_name not in names:
                raise InputError(
                    f"{self.root}: holds a run of the recipe {names[0]!r}; "
                    f"expected one of {recipe_name!r}, or a new folder"
                )
            yield

    @contextmanager
    def looking(self) -> Iterator[None]:
        """While the body runs, `run` raises Missing for a stage that is not done, in place of doing it."""
        self._looking = True
        try:
            yield
        finally:
            self._looking = False

    @contextmanager
    def apart(self) -> Iterator[None]:
        """The body can wait while what comes after it goes on: where a stage is missing, it ends there and is noted."""
        try:
            yield
        except Missing as missing:
            self.missed.append(missing)

    def folder(self, stage: str, config: Mapping[str, Any], parents: Sequence[Path]) -> Path:
        """Where the stage is, or would be."""
        return self.root / "stages" / f"{stage}-{stage_key(stage, config, parents)}"

    def run(
        self,
        stage: str,
        config: Mapping[str, Any],
        parents: Sequence[Path],
        work: Callable[[Path], Mapping[str, Any] | None],
    ) -> Path:
        """The stage's folder, with the stage done in it: by an earlier run, or by `work` now.

        Args:
            stage, config, parents: as for `stage_key`.
            work: fills the folder that it is given. After a stop it is called again with what it left there,
                so it goes on from its own checkpoints. It asks for no stage that is not done by then, as its parents
                are. The JSON data that it returns is `result(folder)`.

        Raises:
            InputError: another process works on it, or the folder cannot be written.
            StageFailed: the disk is full.
            Exception: whatever `work` raises; status.json then says so. A stop (KeyboardInterrupt,
                SystemExit) is recorded as one, and the next run goes on.
            Missing: the stage is not done, and this store is only looking.
        """
        folder = self.folder(stage, config, parents)
        if done(folder):
            return folder
        if self.failed and folder.name in self.failed:
            raise self.failed[folder.name]
        if self._looking:
            raise Missing(stage, folder, config)
        try:
            with lock(folder):
                if not done(folder):  # by someone else meanwhile
                    self._clear_if_damaged(folder)
                    _perform(folder, stage, config, parents, work)
        except Exception as error:
            if self.failed is not None:
                self.failed[folder.name] = error
            raise
        return folder

    def _clear_if_damaged(self, folder: Path) -> None:
        """A stage that says it is done and is not, or whose status is unreadable, is begun anew."""
        try:
            state = _status(folder).get("state")
        except FileNotFoundError:
            return
        except ValueError:
            state = None
        if state not in ("done", None):
            return
        reason = damage(folder) or "its status is unreadable"
        self.say(f"{folder}: is damaged ({reason}); doing it again")
        # The status goes last: until then a stop in between leaves a stage that is still known to be damaged.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "status.json"):
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def done(folder: Path) -> bool:
    """Whether the stage in `folder` is finished, and its files are those that were written."""
    return damage(folder) is None


def appears(folder: Path) -> bool:
    """Whether the stage, which another process says it has finished, is done, or comes to be seen soon."""
    until = time.monotonic() + PATIENCE
    while not done(folder):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def damage(folder: Path) -> str | None:
    """Why the stage in `folder` does not count as done; None if it does."""
    try:
        status = _status(folder)
    except (OSError, ValueError):
        return "it has no readable status"
    if status.get("state") != "done":
        return f"its state is {status.get('state')}"
    return difference(folder, status["files"])


def result(folder: Path) -> Any:
    """What the `work` of a finished stage returned."""
    return _status(folder)["result"]


def told(error: Exception) -> str:
    """A failure in one line; what the user gave wrong, and a full disk, end the run instead.

    Raises:
        InputError, StageFailed: the error, where going on makes no sense.
    """
    if isinstance(error, InputError) or (isinstance(error, StageFailed) and disk_is_full(error.__cause__)):
        raise error
    return in_a_line(error)


def _perform(
    folder: Path,
    stage: str,
    config: Mapping[str, Any],
    parents: Sequence[Path],
    work: Callable[[Path], Mapping[str, Any] | None],
) -> None:
    began = time.monotonic()
    status: dict[str, Any] = {"state": "running", "stage": stage, "started": now()}
    try:
        for leftover in folder.glob(".*.tmp"):  # of a write that was killed
            leftover.unlink()
        described = {"format": FORMAT, "stage": stage, "config": config, "parents": [p.name for p in parents]}
        write_json(folder / "config.json", described)
        _write_status(folder, status)
        returned = work(folder)
        files = _files(folder)
        seconds = time.monotonic() - began
        finished = {"ended": now(), "seconds": seconds, "result": returned, "files": files}
        _write_status(folder, status | {"state": "done"} | finished)
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        state = {"state": "interrupted"} if stopped else {"state": "failed", "error": in_a_line(error)}
        _note(folder, status | state | {"ended": now()})
        if not stopped and disk_is_full(error):
            raise full_disk(folder) from error
        raise


def _note(folder: Path, status: Mapping[str, Any]) -> None:
    """Write the status of a stage that did not finish, if that can be done; the cause matters more."""
    try:
        _write_status(folder, status)
    except OSError:
        return  # a full disk; the status says "running", which is as good: the next run goes on


def _write_status(folder: Path, status: Mapping[str, Any]) -> None:
    write_json(folder / "status.json", sealed(status))


def _status(folder: Path) -> dict[str, Any]:
    """What status.json says; ValueError if it is not what was written."""
    return unsealed(json.loads((folder / "status.json").read_text(encoding="utf-8")))


def _files(folder: Path) -> Checksums:
    """Size and checksum of everything that `work` left, once it is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return checksums(folder, lambda name: name not in _OURS)
