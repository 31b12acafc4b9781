"""One command in two processes that a launcher started: the same results, one voice, and nobody waits for ever."""

import json
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Pipe
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import boostershot as bs
from boostershot import cli
from boostershot.config import load_recipe
from boostershot.errors import InputError
from boostershot.pipeline import together
from boostershot.pipeline.local_workers import Process
from boostershot.pipeline.orders import Outcome
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
    Fake(store, 1).tell("failed/0/1", json.dumps(["failed", "out of memory"]))
    assert workers._failures(0) == [Outcome("failed", "process 1 of 2: out of memory")]
    with pytest.raises(bs.errors.StageFailed, match="process 1 of 2 is gone"):
        while True:
            workers._check_alive()


CHILD = """
import os, signal, sys
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from boostershot.errors import InputError, StageFailed
from boostershot.pipeline.orders import Outcome

handle, rank, ends, how, folder = sys.argv[1:]
connection = Connection(int(handle))
connection.recv_bytes()
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=int(rank), world_size=2)
dist.barrier()
try:
    if rank == ends:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError("rows are bad") if how == "refuses" else StageFailed("the loss is nan")
    dist.all_reduce(torch.ones(1))
except Exception as error:
    connection.send(Outcome.of(error))
connection.recv_bytes()
"""


class Child(Process):
    """A real process in a collective with another one, of which one ends in a chosen way."""

    def __init__(self, *arguments):
        self.connection, there = Pipe()
        self._bars, self._what = [], "immunize-1"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(there.fileno()), *map(str, arguments)],
            pass_fds=[there.fileno()],
            env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        there.close()


KILLED = "immunize-1: its process was killed (as it is when memory runs out)"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("ends", "how", "outcome"),
    [
        (0, "dies", Outcome("lost", KILLED)),
        (1, "dies", Outcome("failed", f"process 1 of 2: {KILLED.replace('immunize-1', 'a stage')}")),
        (0, "fails", Outcome("failed", "the loss is nan")),
        (1, "fails", Outcome("failed", "process 1 of 2: the loss is nan")),
        (1, "refuses", Outcome("wrong input", "process 1 of 2: rows are bad")),
    ],
    ids=lambda value: str(value) if not isinstance(value, Outcome) else "",
)
def test_of_two_that_train_together_the_cause_is_told_and_not_what_it_brings_about(
    store, tmp_path, monkeypatch, ends, how, outcome
):
    children = [Child(rank, ends, how, tmp_path) for rank in (0, 1)]
    children[1]._what = "a stage"
    first, second = Fake(store, 0), Fake(store, 1)
    for process in (first, second):
        process.child = lambda child=children[process.rank]: child
    workers = together.TogetherWorkers(first, QUIET)
    beside = threading.Thread(target=together._beside, args=(second, b"order"))
    beside.start()
    children[0].send(b"order")
    assert workers._next_of_all(children[0]) == outcome
    beside.join(20)
    assert store.check(["boostershot/free/0/1"])
    assert all(child.popen.poll() is not None for child in children)


@pytest.mark.parametrize("value", [None, "first"])
def test_a_launcher_s_variable_that_is_missing_or_no_number_is_named(monkeypatch, capsys, value):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    if value is None:
        monkeypatch.delenv("MASTER_PORT", raising=False)
    else:
        monkeypatch.setenv("MASTER_PORT", value)
    assert cli.call(["run", "quickstart"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"boostershot: MASTER_PORT is {value or 'not set'}; expected what accelerate launch and torchrun set, or no "
        "RANK in the environment"
    ]


@pytest.mark.parametrize("arguments", [["recipes"], ["--help"], ["run", "--help"], ["launchers", "ddp"], []])
def test_what_does_no_recipe_waits_for_nobody(monkeypatch, capsys, arguments):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(together, "run", lambda command: pytest.fail("forms a group"))
    assert cli.call(arguments) == (0 if arguments else 2)


def test_an_alignment_is_spread_evenly_and_runs_all_its_layers():
    immunize = load_recipe("quickstart").immunize
    together.check(immunize, 2)
    with pytest.raises(InputError, match=r"immunize.batch is 3; expected a multiple of the 2 processes"):
        together.check(immunize.model_copy(update={"batch": 3}), 2)
    with pytest.raises(InputError, match=r"immunize.cached_layers is 4; expected 0 where processes share a batch"):
        together.check(immunize.model_copy(update={"cached_layers": 4}), 2)
