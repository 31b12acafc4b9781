"""One command in two processes that a launcher started: the same results, one voice, and nobody waits for ever."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import boostershot as bs
from boostershot.errors import InputError
from boostershot.pipeline import together
from boostershot.pipeline.progress import Reporter
from user_files import user_files

SOURCE = Path(__file__).parents[2] / "src"
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    content = {
        "name": "together",
        **user_files(folder, 120, 80),
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": {"rank": 4}},
        "defenses": {"booster": {"method": "booster", "lam": 5, "alpha": 0.1}},
        "attacks": {},
        "runtime": {"threads": 1},
    }
    content["attacks"]["mix"] = {"method": "harmful-mix", "p": 0.25, "n": 8, "lr": 1e-2, "steps": 2, "batch": 4}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def pair(*arguments: object) -> list[tuple[int, str]]:
    """Exit code and standard error of each of two processes with a command, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "boostershot", *map(str, arguments)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def adapter(root: Path) -> dict[str, torch.Tensor]:
    (found,) = root.glob("stages/immunize-*/adapter/adapter_model.safetensors")
    return load_file(found)


@pytest.mark.slow
def test_a_model_is_immunised_by_both_as_by_one(recipe, tmp_path):
    (code, said), (other, silent) = pair("immunize", recipe, "--out", tmp_path / "two")
    assert (code, other) == (0, 0), said + silent
    assert "immunizing: booster, seed 0" in said and not silent
    bs.run(recipe, tmp_path / "one", until="immunize", reporter=QUIET)
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, weights in one.items():  # Adam makes float32 noise of small gradients larger
        torch.testing.assert_close(two[name], weights, rtol=0, atol=2e-3)
    names = [sorted(path.name for path in (tmp_path / root / "stages").iterdir()) for root in ("one", "two")]
    assert names[0] == names[1]
    (status,) = (tmp_path / "two").glob("stages/immunize-*/status.json")
    assert json.loads(status.read_text())["state"] == "done"
    ended = status.stat().st_mtime_ns
    bs.run(recipe, tmp_path / "two", until="immunize", reporter=QUIET)  # one process finds it done
    assert status.stat().st_mtime_ns == ended


@pytest.mark.slow
def test_wrong_input_is_told_once_and_both_exit_with_2(recipe, tmp_path):
    (code, said), (other, silent) = pair("immunize", recipe, "--out", tmp_path, "--set", "immunize.batch=5")
    assert (code, other) == (2, 2)
    assert "immunize.batch is 5; expected a multiple of the 2 processes that share it" in said.splitlines()[-1]
    assert not silent


class Fake(together.Processes):
    """A process in this one, with a store in memory."""

    def __init__(self, store, rank: int, beats: bool = True):
        self.store, self.rank, self.count, self.environment, self.orders = store, rank, 2, {}, 0
        self._beats = {}
        if beats:
            self.tell(f"beat/{rank}", "1")


@pytest.fixture
def store():
    return torch.distributed.HashStore()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(together, "SILENCE", 0.5)
    monkeypatch.setattr(together, "_LOOK", 0.05)


@pytest.mark.parametrize(
    ("code", "said", "line"),
    [
        (0, "", ""),
        (2, "recipe.yaml: is wrong", ""),
        (1, "disk full", "process 1: the first process has ended: disk full"),
    ],
)
def test_the_others_end_as_the_first_does(store, code, said, line):
    found = []
    follower = threading.Thread(target=lambda: found.append(together._follow(Fake(store, 1))))
    follower.start()
    Fake(store, 0).end(code, said)
    follower.join(5)
    assert found == [(code, line)]
    assert store.check(["boostershot/bye/1"])


def test_the_others_end_when_the_first_is_gone(store, impatient):
    Fake(store, 0)
    assert together._follow(Fake(store, 1)) == (1, "process 1: the first process is gone")


def test_the_first_tells_why_another_failed_and_that_one_is_gone(store, impatient):
    first = Fake(store, 0)
    workers = together.TogetherWorkers(first, QUIET)
    Fake(store, 1).tell("failed/0/1", "out of memory")
    outcome = workers._failure(0)
    assert outcome is not None and (outcome.kind, outcome.said) == ("failed", "process 1 of 2: out of memory")
    with pytest.raises(bs.errors.StageFailed, match="process 1 of 2 is gone"):
        while True:
            workers._check_alive()


def test_a_batch_is_spread_evenly():
    together.check_batch(4, 2)
    with pytest.raises(InputError, match=r"immunize.batch is 3; expected a multiple of the 2 processes"):
        together.check_batch(3, 2)
