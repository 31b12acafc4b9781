"""One process at a time works in a folder; a dead one stands in nobody's way; an unwritable one is told at once."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from boostershot.errors import InputError
from boostershot.pipeline.files import read_json
from boostershot.pipeline.locks import _start_time, free_if_lost
from boostershot.pipeline.store import Store, done, result

# A stage of four parts, each of which is written once; it may sleep after a part, and tells when it does.
WORKER = """
import sys, time
from pathlib import Path
from boostershot.errors import InputError
from boostershot.pipeline.store import Store

def work(folder):
    for part in range(4):
        path = folder / f"part-{part}"
        if not path.exists():
            path.write_text("made by a worker")
        if part == PAUSE_AFTER:
            print("paused", flush=True)
            time.sleep(60)
    with (folder.parent / "performed").open("a") as file:
        file.write("x")
    time.sleep(0.2)
    return {"parts": 4}

try:
    Store(Path(sys.argv[1])).run("count", {"parts": 4}, [], work)
except InputError as error:
    sys.exit(str(error))
"""


def worker(root: Path, pause_after: int = -1) -> "subprocess.Popen[str]":
    code = WORKER.replace("PAUSE_AFTER", str(pause_after))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def paused(root: Path) -> "subprocess.Popen[str]":
    """A worker that has made two of its parts and sleeps."""
    process = worker(root, pause_after=1)
    assert process.stdout is not None
    assert process.stdout.readline() == "paused\n"
    return process


def finish(folder: Path) -> dict[str, Any]:
    """The worker's stage, done here; tells which parts it found."""
    found = sorted(path.name for path in folder.glob("part-*"))
    for part in range(4):
        if not (folder / f"part-{part}").exists():
            (folder / f"part-{part}").write_text("made here")
    return {"found": found}


def writing(text: str = "some text") -> Callable[[Path], dict[str, Any]]:
    def work(folder: Path) -> dict[str, Any]:
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter" / "weights").write_text(text)
        return {"text": text}

    return work


def never(folder: Path) -> None:
    raise AssertionError("the work was done a second time")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def test_a_killed_stage_goes_on_in_another_process(store: Store) -> None:
    process = paused(store.root)
    process.kill()  # and not waited for: it stays as a zombie, which is dead all the same
    folder = store.folder("count", {"parts": 4}, [])
    while "State:\tZ" not in Path(f"/proc/{process.pid}/status").read_text():
        time.sleep(0.01)
    assert json.loads((folder / "lock").read_text())["pid"] == process.pid
    assert read_json(folder / "status.json")["state"] == "running"
    store.run("count", {"parts": 4}, [], finish)
    process.wait()
    assert result(folder) == {"found": ["part-0", "part-1"]}
    assert (folder / "part-1").read_text() == "made by a worker"
    assert (folder / "part-2").read_text() == "made here"
    assert (folder / "lock").read_text() == ""


def test_a_live_owner_keeps_its_stage(store: Store) -> None:
    process = paused(store.root)
    try:
        with pytest.raises(InputError) as caught:
            store.run("count", {"parts": 4}, [], never)
    finally:
        process.kill()
        process.wait()
    assert f"is being run by process {process.pid} on {socket.gethostname()}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_of_many_does_a_stage_of_a_dead_owner(store: Store) -> None:
    dead = paused(store.root)
    dead.kill()
    dead.wait()
    processes = [worker(store.root) for _ in range(4)]
    errors = [process.communicate()[1] for process in processes]
    assert (store.root / "stages" / "performed").read_text() == "x"
    assert done(store.folder("count", {"parts": 4}, []))
    refused = [error for process, error in zip(processes, errors, strict=True) if process.returncode]
    assert all("is being run by process" in error for error in refused)


def test_nobody_judges_a_lock_while_another_does(store: Store) -> None:
    folder = store.folder("count", {"parts": 4}, [])
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = worker(store.root)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)
        assert (folder / "lock").read_text() == ""
        assert not (folder / "config.json").exists()
    assert process.wait() == 0
    assert done(folder)


def locked_by(store: Store, owner: str) -> Path:
    folder = store.folder("attack", {}, [])
    folder.mkdir(parents=True)
    (folder / "lock").write_text(owner)
    return folder


def test_another_hosts_lock_is_left_alone(store: Store) -> None:
    owner = json.dumps({"pid": 1, "host": "a.host.elsewhere", "started": "x"})
    folder = locked_by(store, owner)
    with pytest.raises(InputError, match=r"by process 1 on a\.host\.elsewhere; .*remove .*lock"):
        store.run("attack", {}, [], never)
    assert (folder / "lock").read_text() == owner


def test_the_lock_of_a_lost_worker_is_freed_and_a_live_one_is_not(store: Store) -> None:
    folder = locked_by(store, json.dumps({"pid": 1, "host": "a.host.elsewhere", "started": "x"}))
    free_if_lost(folder)
    assert (folder / "lock").read_text() == ""
    live = json.dumps({"pid": os.getppid(), "host": socket.gethostname(), "started": _start_time(os.getppid())})
    (folder / "lock").write_text(live)
    free_if_lost(folder)
    assert (folder / "lock").read_text() == live
    (folder / "lock").write_text(live.replace(str(os.getppid()), str(2**30)))
    free_if_lost(folder)
    assert (folder / "lock").read_text() == ""
    free_if_lost(folder.parent / "none")
    assert not (folder.parent / "none").exists()


def test_a_reused_process_id_is_not_the_owner(store: Store) -> None:
    here = {"pid": os.getpid(), "host": socket.gethostname(), "started": "at another time"}
    folder = locked_by(store, json.dumps(here))
    assert done(store.run("attack", {}, [], writing()))
    assert (folder / "lock").read_text() == ""


@pytest.mark.parametrize("torn", ['{"pid": 12', "[]", '{"pid": "1", "host": "h", "started": null}'])
def test_a_torn_lock_is_nobodys(store: Store, torn: str) -> None:
    locked_by(store, torn)
    assert done(store.run("attack", {}, [], writing()))


def test_a_run_folder_serves_one_run_at_a_time(store: Store) -> None:
    with store.claimed("quickstart"):
        mine = f"run: is being run by process {os.getpid()} on "
        with pytest.raises(InputError, match=mine), Store(store.root).claimed("quickstart"):
            raise AssertionError("two runs in one folder")
        assert json.loads((store.root / "lock").read_text())["pid"] == os.getpid()
    with store.claimed("quickstart"):
        pass
    assert (store.root / "lock").read_text() == ""


def test_a_claim_ends_with_an_error_inside(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.claimed("quickstart"):
        raise ZeroDivisionError
    with store.claimed("quickstart"):
        pass


def test_a_run_folder_removed_meanwhile_hides_no_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.claimed("quickstart"):
        (store.root / "lock").unlink()
        store.root.rmdir()
        raise ZeroDivisionError


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process may not write in, root's powers given up for a while."""
    folder = Path(tempfile.mkdtemp(prefix="boostershot-test-"))
    (folder / "run").mkdir()
    (folder / "run").chmod(0o555)
    folder.chmod(0o755)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield folder / "run"
    finally:
        os.seteuid(before)
        (folder / "run").rmdir()
        folder.rmdir()


def test_a_read_only_folder_is_told_before_any_work(read_only_folder: Path) -> None:
    store = Store(read_only_folder)
    denied = "cannot be written: Permission denied"
    with pytest.raises(InputError, match=f"run: {denied}"), store.claimed("quickstart"):
        raise AssertionError("claimed")
    with pytest.raises(InputError, match=denied):
        store.run("attack", {}, [], never)


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    for root in (tmp_path / "run", tmp_path / "run" / "deeper"):
        with pytest.raises(InputError, match="cannot be written: "), Store(root).claimed("quickstart"):
            raise AssertionError("claimed")


def test_sigterm_as_an_exception_leaves_the_lock_free(store: Store) -> None:
    code = WORKER.replace("PAUSE_AFTER", "1")
    code = f"import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n{code}"
    process = subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "paused\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    folder = store.folder("count", {"parts": 4}, [])
    assert (folder / "lock").read_text() == ""
    assert read_json(folder / "status.json")["state"] == "interrupted"
