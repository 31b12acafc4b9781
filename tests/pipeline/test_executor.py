"""A run spread over worker processes: the same results as with none, whoever dies meanwhile."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

import boostershot as bs
from boostershot.cli import call
from boostershot.config import load_recipe
from boostershot.errors import InputError, StageFailed
from boostershot.pipeline import store as stores
from boostershot.pipeline.executor import Executor, opened
from boostershot.pipeline.local_workers import LocalWorkers
from boostershot.pipeline.locks import Unusable
from boostershot.pipeline.orders import Task
from boostershot.pipeline.progress import Reporter
from boostershot.pipeline.stages import Stages
from boostershot.pipeline.store import Store, done, result
from user_files import user_files

QUIET = Reporter(quiet=True)
CONTENT = (".safetensors", ".jsonl", ".json")  # of a stage; what else is there tells times


def user_folder(folder: Path) -> Path:
    """A model, data and a recipe, as a user would have them."""
    attack = {"method": "harmful-mix", "p": 0.25, "n": 8, "lr": 1e-2, "steps": 2, "batch": 4, "eval_steps": [0, 2]}
    recipe = {
        "name": "spread",
        **user_files(folder, 120, 80),
        "seeds": [0],
        "immunize": {"lr": 1e-2, "steps": 2, "batch": 4, "lora": {"rank": 4, "dropout": 0.1}},
        "defenses": {"sft": {"method": "sft"}, "booster": {"method": "booster", "lam": 5, "alpha": 0.1}},
        "attacks": {"mix": attack | {"adapter": "continue"}},
        "evaluate": {"n_harmful": 8, "n_task": 6, "max_new_tokens": 4},
        "runtime": {"threads": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return user_folder(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def alone(folder):
    """The recipe, run by this process alone."""
    return bs.run(folder / "recipe.yaml", folder / "alone", reporter=QUIET)


def contents(root: Path) -> dict[str, str]:
    """Checksum of every file of every stage that says what was measured."""
    return {
        f"{status.parent.name}/{name}": about["sha256"]
        for status in root.glob("stages/*/status.json")
        for name, about in json.loads(status.read_text())["files"].items()
        if name.endswith(CONTENT) and not name.endswith(("metrics.jsonl", "adapter_config.json"))
    }


def test_two_processes_give_the_same_to_the_bit_and_do_nothing_twice(folder, alone, capfd):
    spread = bs.run(folder / "recipe.yaml", folder / "two", {"runtime.processes": 2})
    told = capfd.readouterr().err
    assert contents(spread.folder) == contents(alone.folder)
    assert spread.rows == alone.rows
    lines = [line for line in told.splitlines() if line.startswith(("immuniz", "attack", "answer", "judg"))]
    assert len(lines) == len(set(lines)) == 2 + 2 + 5 + 5  # alignments, attacks, answers and judgements: each once
    assert all(line.rpartition(": ")[2].endswith(" s") for line in lines)


def test_the_options_of_the_command_line_reach_the_recipe(folder, capsys):
    start = ["run", str(folder / "recipe.yaml"), "--out", str(folder / "none")]
    assert call([*start, "--processes", "0"]) == 2
    assert "runtime.processes: is 0; expected at least 1" in capsys.readouterr().err
    assert call([*start, "--executor", "local", "--set", "runtime.address=here:1"]) == 2
    assert "runtime.address: is given; expected null, for executor: local" in capsys.readouterr().err


# --- tasks of stages that take no model ----------------------------------------------------------------------------


def stage(stages, name, work):
    """A stage of that name, done by `work(folder)`; each time that it is begun is noted in `begun`."""

    def noted(folder):
        with (stages.store.root / "begun").open("a") as file:
            file.write(f"{name}\n")
        return work(folder)

    return stages.store.run(name, {}, [], noted)


def text(stages, name, said):
    """Reads what the stage wrote; its own result is no file."""
    folder = stage(stages, name, lambda folder: (folder / "text").write_text(said))
    return name, (folder / "text").read_text()


def joined(stages, names):
    return [text(stages, name, name.upper())[1] for name in names]


def fails(stages, how):
    def work(folder):
        raise how("made to fail")

    return stage(stages, "fails", work)


def held(stages):
    """Its folder is another process's, as it says."""
    folder = stages.store.folder("held", {}, [])
    folder.mkdir(parents=True, exist_ok=True)
    owner = {"pid": 1, "host": "elsewhere", "started": None}
    (folder / "lock").write_text(json.dumps(owner))
    return stages.store.run("held", {}, [], lambda folder: None)


def dies(stages, name, times):
    """Its process is killed the first times that it is begun."""

    def work(folder):
        if (stages.store.root / "begun").read_text().split().count(name) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    return result(stage(stages, name, work))


def wait_for(path: Path) -> None:
    until = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)


def meets(stages, own, other):
    """A stage that ends once the other is at work, too."""

    def work(folder):
        (stages.store.root / own).touch()
        wait_for(stages.store.root / other)

    return stage(stages, own, work).name


def both(stages):
    found = {}
    for own, other in (("left", "right"), ("right", "left")):
        with stages.store.apart():
            found[own] = meets(stages, own, other)
    return sorted(found)


def judges(stages, name, judge):
    """A judging that fails if another by the same judge goes on."""

    def work(folder):
        busy = stages.store.root / judge
        busy.touch(exist_ok=False)
        (stages.store.root / f"{judge}-{name}").touch()
        if judge == "slow":
            wait_for(stages.store.root / "quick-c")  # other judges go on meanwhile
        busy.unlink()

    return stages.store.run("evaluate", {"judge": judge, "of": name}, [], work).name


def lasts(stages):
    """A stage that ends when it is stopped."""

    def work(folder):
        (folder / "kept").write_text("so far")
        (stages.store.root / "lasting").touch()
        while True:
            time.sleep(0.01)

    return stage(stages, "lasts", work)


def stages_in(folder, root, **runtime):
    changes = {f"runtime.{key}": value for key, value in runtime.items()}
    return Stages(load_recipe(folder / "recipe.yaml", changes), Store(root), QUIET)


@pytest.fixture(scope="module")
def two(folder):
    """Two processes, for the tests of this file."""
    workers = LocalWorkers(2, QUIET)
    yield workers
    workers.close()


@pytest.fixture
def executor(folder, two, tmp_path):
    """With a run folder of its own."""
    return Executor(stages_in(folder, tmp_path), two)


def begun(executor):
    return sorted((executor.stages.store.root / "begun").read_text().split())


def test_results_come_in_order_failures_are_values_and_shared_stages_are_done_once(executor):
    tasks = [
        Task(text, ("b", "said")),
        Task(fails, (RuntimeError,)),
        Task(joined, (["b", "a"],)),
        Task(text, ("b", "")),
    ]
    first, failed, third, last = executor.map(tasks)
    assert first == last == ("b", "said")
    assert isinstance(failed, Exception)
    assert str(failed) == "made to fail"
    assert third == ["said", "A"]
    again = executor.map([Task(fails, (RuntimeError,)), Task(text, ("c", "more"))])
    assert str(again[0]) == "made to fail"
    assert again[1] == ("c", "more")
    assert begun(executor) == ["a", "b", "c", "fails"]


def test_with_no_workers_the_same(folder, tmp_path):
    with opened(stages_in(folder, tmp_path)) as executor:
        test_results_come_in_order_failures_are_values_and_shared_stages_are_done_once(executor)


def test_wrong_input_fails_a_task_that_spares_the_run(executor, folder, tmp_path):
    for one in (executor, Executor(stages_in(folder, tmp_path / "alone"))):
        failed, went_on = one.map([Task(fails, (InputError,), spares=True), Task(text, ("a", "on"), spares=True)])
        assert isinstance(failed, StageFailed) and str(failed) == "made to fail"
        assert went_on == ("a", "on")
        with pytest.raises(Unusable):  # a folder that is held is nobody's own fault
            one.map([Task(held, (), spares=True)])


@pytest.mark.parametrize(("how", "raised"), [(InputError, InputError), (OSError, StageFailed)])
def test_wrong_input_and_a_full_disk_end_the_run(executor, how, raised):
    error = {InputError: InputError, OSError: no_space}[how]
    with pytest.raises(raised, match="made to fail" if how is InputError else "the disk is full"):
        executor.map([Task(fails, (error,))])


def no_space(said):
    return OSError(28, said)


def test_a_dead_worker_is_replaced_and_its_stage_begun_again_once(executor, two, capsys):
    spoken = Executor(replace(executor.stages, reporter=Reporter()), two)
    pid, failed, other = spoken.map(
        [Task(dies, ("once", 1)), Task(dies, ("always", 9)), Task(text, ("beside", "said"))]
    )
    assert pid != os.getpid()
    assert isinstance(failed, StageFailed)
    assert "was killed" in str(failed)
    assert other == ("beside", "said")
    assert begun(executor) == ["always", "always", "beside", "once", "once"]
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("its process was killed (as it is when memory runs out); it is begun again") == 2


def test_stages_that_do_not_need_each_other_are_done_at_once(executor):
    assert executor.map([Task(both)]) == [["left", "right"]]
    root = executor.stages.store.root
    for name in ("left", "right"):
        (root / name).unlink()
    assert len(executor.map([Task(meets, ("up", "down")), Task(meets, ("down", "up"))])) == 2


def test_no_judge_is_asked_by_two_workers_at_once(executor):
    tasks = [Task(judges, (name, judge)) for judge in ("slow", "quick") for name in "abc"]
    assert not [one for one in executor.map(tasks) if isinstance(one, Exception)]


def test_a_run_folder_that_workers_do_not_share_is_told(executor, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.0)
    monkeypatch.setattr(stores, "done", lambda folder: False)
    with pytest.raises(InputError, match="expected a run folder on storage that all workers share"):
        executor.map([Task(text, ("a", "said"))])


def threads(stages):
    return result(stage(stages, "threads", lambda folder: torch.get_num_threads()))


def test_every_stage_has_the_leaders_threads(executor):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert executor.map([Task(threads)]) == [3]
    finally:
        torch.set_num_threads(before)


def test_what_workers_tell_is_shown_until_it_ends(folder, tmp_path):
    said = io.StringIO()
    terminal = Reporter(Console(file=said, force_terminal=True, width=200))
    workers = LocalWorkers(1, terminal)
    try:
        stages = Stages(load_recipe(folder / "recipe.yaml"), Store(tmp_path), terminal)
        assert Executor(stages, workers).map([Task(shows)]) == ["shows"]
    finally:
        workers.close()
    assert "counting" in said.getvalue()
    assert "3/4" in said.getvalue()
    assert said.getvalue().rstrip().endswith("counting: 0 s")
    assert terminal._bars is None


def shows(stages):
    def work(folder):
        with stages.reporter.bar("counting", 4) as advance:
            advance(3)
            time.sleep(0.3)  # longer than a bar takes to be drawn anew

    return stage(stages, "shows", work).name.partition("-")[0]


LEADER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
from pathlib import Path
import test_executor as t
from boostershot.pipeline.executor import opened
with opened(t.stages_in(Path(sys.argv[1]), Path(sys.argv[2]), processes=2)) as executor:
    executor.map([t.Task(t.lasts)])
"""


@pytest.mark.parametrize(("number", "state"), [(signal.SIGINT, "interrupted"), (signal.SIGKILL, "running")])
def test_workers_end_with_their_leader_and_the_stage_goes_on(executor, folder, number, state):
    root = executor.stages.store.root
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(folder), str(root)],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(root / "lasting")
        (stage_folder,) = (root / "stages").iterdir()
        worker = json.loads((stage_folder / "lock").read_text())["pid"]
        leader.send_signal(number)
        assert leader.wait(60) != 0
    finally:
        leader.kill()
    until = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "State:\tZ" not in Path(f"/proc/{worker}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert json.loads((stage_folder / "status.json").read_text())["state"] == state
    goes_on = executor.stages.store.run("lasts", {}, [], lambda found: {"kept": (found / "kept").read_text()})
    assert done(goes_on)
    assert result(goes_on) == {"kept": "so far"}
