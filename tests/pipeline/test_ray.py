"""A run on a real local Ray cluster: the same results as without, though a worker is killed; a lost cluster is told."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from test_executor import QUIET, contents, lasts, stages_in, text, user_folder, wait_for

import boostershot as bs
from boostershot.cli import call
from boostershot.errors import InputError, StageFailed
from boostershot.pipeline import ray_workers
from boostershot.pipeline.executor import opened
from boostershot.pipeline.orders import Task
from boostershot.pipeline.store import done

# Clusters ask for a token, which Ray makes up for those that it starts in this process, but not for others.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return user_folder(tmp_path_factory.mktemp("user"))


TRIAL_STEPS = 3  # the recipe's own attack takes 2


@pytest.fixture
def killer(tmp_path):
    """Kills the first worker that is seen at work on a trial of the sweep; tells its process id."""
    killed = []
    over = threading.Event()

    def watch():
        while not killed and not over.wait(0.01):
            for lock in tmp_path.glob("run/stages/attack-*/lock"):
                config, owner = lock.parent / "config.json", lock.read_text()
                if not owner or killed or not config.exists():
                    continue
                if json.loads(config.read_text())["config"]["attack"]["steps"] == TRIAL_STEPS:
                    os.kill(json.loads(owner)["pid"], signal.SIGKILL)
                    killed.append(json.loads(owner)["pid"])

    thread = threading.Thread(target=watch)
    thread.start()
    yield killed
    over.set()
    thread.join()


@pytest.mark.faults
def test_a_sweep_by_two_workers_of_whom_one_is_killed_is_the_same_to_the_bit(folder, tmp_path, killer):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    del recipe["defenses"]["sft"]
    attacker = {"trials": 2, "generation": 2, "steps": TRIAL_STEPS, "samples": 8, "seeds": [7], "utility": "perplexity"}
    space = {"lr": [1e-3, 1e-2], "p": {"low": 0.25, "high": 1.0}}
    recipe |= {"sweep": {"attacker": attacker | {"space": space}}, "properties": {"stability": {"n_texts": 2}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    changes = {"runtime.executor": "ray", "runtime.processes": 2}
    before = signal.getsignal(signal.SIGTERM)
    spread = bs.run(tmp_path / "recipe.yaml", tmp_path / "run", changes, sweep=True, reporter=QUIET)
    assert len(killer) == 1
    alone = bs.run(tmp_path / "recipe.yaml", tmp_path / "alone", sweep=True, reporter=QUIET)
    assert contents(spread.folder) == contents(alone.folder)
    assert spread.rows == alone.rows
    swept = [(one.folder / "sweep.json").read_text() for one in (spread, alone)]
    assert swept[0] == swept[1]
    assert [trial["state"] for trial in json.loads(swept[0])["defenses"][0]["trials"]] == ["done", "done"]
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is before


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def cluster():
    """A cluster of the user's on this machine: its address, and its process group."""
    port = free_port()
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    options = ["start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *options],
        env=os.environ | {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Ray runtime started" in line:
            break
    threading.Thread(target=process.stdout.read, daemon=True).start()
    yield f"127.0.0.1:{port}", process.pid
    end(process.pid)
    process.wait()


def end(group: int) -> None:
    """Kill all processes of the cluster, which has a session of its own."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _session(entry) == group:
            os.kill(int(entry.name), signal.SIGKILL)


def _session(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return None


@pytest.mark.slow
def test_a_cluster_that_is_lost_ends_the_run_and_finished_stages_stay(folder, tmp_path, cluster, monkeypatch):
    address, group = cluster
    monkeypatch.setattr(ray_workers, "_CHECK", 0.5)
    stages = stages_in(folder, tmp_path, executor="ray", address=address)
    threading.Thread(target=lambda: (wait_for(tmp_path / "lasting"), end(group)), daemon=True).start()
    with pytest.raises(StageFailed, match=f":{address.rpartition(':')[2]} is lost"), opened(stages) as executor:
        assert executor.map([Task(text, ("a", "said"))]) == [("a", "said")]
        executor.map([Task(lasts)])
    assert done(stages.store.folder("a", {}, []))
    assert not ray.is_initialized()


def test_an_address_at_which_nothing_answers_is_one_line_and_exit_code_2(folder, tmp_path, capsys):
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        "immunize",
        str(folder / "recipe.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--quiet",
        "--executor",
        "ray",
    ]
    assert call([*arguments, "--set", f"runtime.address={address}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"runtime.address: nothing answers at {address}; expected a Ray cluster's HOST:PORT, or auto" in said
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_without_ray_it_is_said_how_to_get_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(InputError, match=r"is not installed; pip install '\.\[ray\]'"),
        opened(stages_in(folder, tmp_path, executor="ray")),
    ):
        raise AssertionError("opened")
