"""Stages are done once, resumed after any kind of stop, and never trusted half-made."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boostershot.errors import InputError, StageFailed
from boostershot.pipeline import store as store_module
from boostershot.pipeline.files import read_json
from boostershot.pipeline.store import Store, done, result, stage_key


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


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(one) for one in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=3), json_data, max_size=4))
def test_the_key_does_not_depend_on_the_order_of_keys(config: dict[str, Any]) -> None:
    key = stage_key("attack", config, ["a", "b"])
    assert key == stage_key("attack", reversed_keys(config), [Path("elsewhere/a"), Path("b")])
    assert len(key) == 16 and int(key, 16) >= 0


@given(st.dictionaries(st.text(max_size=3), json_data, max_size=4), st.text(max_size=3), json_data)
def test_the_key_changes_with_all_that_matters(config: dict[str, Any], name: str, value: Any) -> None:
    other = config | {name: value}
    same = json.dumps(config, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (stage_key("attack", config, []) == stage_key("attack", other, [])) == same
    different = [("immunize", ["a", "b"]), ("attack", ["b", "a"]), ("attack", ["a"]), ("attack", ["ab"])]
    keys = {stage_key(stage, config, parents) for stage, parents in [*different, ("attack", ["a", "b"])]}
    assert len(keys) == len(different) + 1


def test_the_key_changes_with_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    key = stage_key("attack", {}, [])
    monkeypatch.setattr(store_module, "FORMAT", store_module.FORMAT + 1)
    assert stage_key("attack", {}, []) != key


def test_a_stage_is_done_once(store: Store) -> None:
    folder = store.run("immunize", {"lr": 0.1}, [Path("data-1")], writing())
    assert folder == store.folder("immunize", {"lr": 0.1}, [Path("data-1")])
    assert folder.parent == store.root / "stages"
    assert store.run("immunize", {"lr": 0.1}, [Path("data-1")], never) == folder
    assert result(folder) == {"text": "some text"}
    assert read_json(folder / "config.json")["config"] == {"lr": 0.1}
    status = read_json(folder / "status.json")
    assert status["state"] == "done"
    assert status["seconds"] >= 0
    assert set(status["files"]) == {"adapter/weights", "config.json"}
    expected = {"size": 9, "sha256": hashlib.sha256(b"some text").hexdigest()}
    assert status["files"]["adapter/weights"] == expected
    assert done(folder)


def test_a_folder_that_is_there_is_not_a_stage_that_is_done(store: Store) -> None:
    folder = store.folder("immunize", {}, [])
    folder.mkdir(parents=True)
    writing("by hand")(folder)
    assert not done(folder)
    store.run("immunize", {}, [], writing())
    assert (folder / "adapter" / "weights").read_text() == "some text"


def test_a_failure_is_recorded_and_raised_and_tried_again(store: Store) -> None:
    def fails(folder: Path) -> None:
        (folder / "checkpoint").write_text("half")
        raise ArithmeticError("the loss is nan\nin row 7")

    with pytest.raises(ArithmeticError, match="in row 7"):
        store.run("attack", {}, [], fails)
    folder = store.folder("attack", {}, [])
    status = read_json(folder / "status.json")
    assert (status["state"], status["error"]) == ("failed", "the loss is nan in row 7")
    assert not done(folder)

    store.run("attack", {}, [], lambda folder: {"found": (folder / "checkpoint").read_text()})
    assert result(folder) == {"found": "half"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_no_failure(store: Store, stop: type[BaseException]) -> None:
    def stopped(folder: Path) -> None:
        (folder / "checkpoint").write_text("half")
        raise stop

    with pytest.raises(stop):
        store.run("attack", {}, [], stopped)
    folder = store.folder("attack", {}, [])
    assert read_json(folder / "status.json")["state"] == "interrupted"
    store.run("attack", {}, [], lambda folder: {"found": (folder / "checkpoint").read_text()})
    assert result(folder) == {"found": "half"}


@pytest.mark.parametrize("write", range(3))
def test_a_stop_at_any_write_is_made_good(store: Store, monkeypatch: pytest.MonkeyPatch, write: int) -> None:
    replace, calls = os.replace, []

    def stops(source: str, target: Path) -> None:
        calls.append(target)
        if len(calls) > write:  # no later write works either, as after a kill
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        store.run("attack", {}, [], writing())
    folder = store.folder("attack", {}, [])
    assert not done(folder)
    monkeypatch.setattr(os, "replace", replace)
    assert done(store.run("attack", {}, [], writing()))
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "config.json", "lock", "status.json"]


def delete(folder: Path) -> None:
    (folder / "adapter" / "weights").unlink()


def shorten(folder: Path) -> None:
    os.truncate(folder / "adapter" / "weights", 3)


def garble_status(folder: Path) -> None:
    (folder / "status.json").write_text('{"state": "done", "fil')


def empty_status(folder: Path) -> None:
    (folder / "status.json").write_text('{"state": "done"}')


def flip_a_bit(folder: Path) -> None:
    (folder / "adapter" / "weights").write_text("rome text")


def flip_a_bit_and_set_the_time_back(folder: Path) -> None:
    before = (folder / "adapter" / "weights").stat()
    flip_a_bit(folder)
    os.utime(folder / "adapter" / "weights", ns=(before.st_atime_ns, before.st_mtime_ns))


def change_the_result(folder: Path) -> None:
    text = (folder / "status.json").read_text()
    (folder / "status.json").write_text(text.replace('"text": "some text"', '"text": "rome text"'))


HARMS = [
    delete,
    shorten,
    garble_status,
    empty_status,
    flip_a_bit,
    flip_a_bit_and_set_the_time_back,
    change_the_result,
]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_stage_is_done_again_from_nothing(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    told: list[str] = []
    store = Store(tmp_path, told.append)
    folder = store.run("immunize", {}, [], writing())
    (folder / "left").mkdir()
    (folder / "left" / "over").write_text("of the damaged one")
    assert done(folder)  # its checksums are known now
    harm(folder)
    assert not done(folder)
    store.run("immunize", {}, [], writing())
    assert done(folder)
    assert not (folder / "left").exists()
    assert len(told) == 1 and str(folder) in told[0] and "damaged" in told[0]


def test_clearing_a_damaged_stage_may_be_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.run("immunize", {}, [], writing())
    (folder / "adapter" / "weights").unlink()
    removals = iter((None, KeyboardInterrupt))

    def stopping_at_the_second(remove: Callable[[Path], None]) -> Callable[[Path], None]:
        def stops(path: Path) -> None:
            if stop := next(removals):
                raise stop
            remove(path)

        return stops

    monkeypatch.setattr(Path, "unlink", stopping_at_the_second(Path.unlink))
    monkeypatch.setattr(shutil, "rmtree", stopping_at_the_second(shutil.rmtree))
    with pytest.raises(KeyboardInterrupt):
        store.run("immunize", {}, [], never)
    monkeypatch.undo()
    (folder / "left").write_text("over")  # as if this was not reached
    store.run("immunize", {}, [], writing())
    assert not (folder / "left").exists()


def test_what_a_killed_write_left_is_no_part_of_the_stage(store: Store) -> None:
    folder = store.folder("attack", {}, [])
    folder.mkdir(parents=True)
    (folder / ".status.json-x7.tmp").write_text('{"state": ')
    store.run("attack", {}, [], writing())
    assert sorted(read_json(folder / "status.json")["files"]) == ["adapter/weights", "config.json"]
    assert not (folder / ".status.json-x7.tmp").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"recipes": 3}'])
def test_a_folder_with_a_broken_manifest_is_refused(store: Store, text: str) -> None:
    store.root.mkdir()
    (store.root / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: "), store.claimed("quickstart"):
        raise AssertionError("claimed")


def full_for_python(folder: Path) -> None:
    with open("/dev/full", "w") as file:
        file.write("text")


def full_for_torch(folder: Path) -> None:
    torch.save(torch.zeros(100_000), "/dev/full")


def full_for_safetensors(folder: Path) -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def full_behind_another(folder: Path) -> None:
    try:
        full_for_python(folder)
    except OSError as error:
        raise ValueError("the checkpoint could not be saved") from error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    "work",
    [full_for_python, full_for_torch, full_for_safetensors, full_behind_another],
    ids=lambda f: f.__name__,
)
def test_a_full_disk_fails_the_stage(store: Store, work: Callable[[Path], None]) -> None:
    with pytest.raises(StageFailed, match="the disk is full") as caught:
        store.run("attack", {}, [], work)
    assert "\n" not in str(caught.value)
    folder = store.folder("attack", {}, [])
    assert read_json(folder / "status.json")["state"] == "failed"
    assert done(store.run("attack", {}, [], writing()))


@pytest.mark.parametrize("write", range(3))
def test_a_disk_that_fills_up_leaves_nothing_that_looks_done(
    store: Store, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    fsync, calls = os.fsync, []

    def full(file: int) -> None:
        name = os.readlink(f"/proc/self/fd/{file}")
        calls.extend([name] if name.endswith(".tmp") else [])
        if len(calls) > write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StageFailed, match="the disk is full"):
        store.run("attack", {}, [], writing())
    monkeypatch.undo()
    folder = store.folder("attack", {}, [])
    assert not done(folder)
    assert list(folder.glob(".*.tmp")) == []
    assert done(store.run("attack", {}, [], writing()))


def test_an_error_that_is_no_full_disk_is_not_one(store: Store) -> None:
    def fails(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error"):
        store.run("attack", {}, [], fails)
