"""Whole runs of a tiny model that are killed, stopped, starved of disk or memory, or whose files change behind them.

Whatever happens, the same command afterwards gives the results and the weights of a run to which nothing happened, bit
for bit.
"""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forked
from boostershot.core import oracle as oracle_module
from boostershot.pipeline.store import done

every = pytest.mark.faults  # what `make faults` adds to `make test`


def assert_made_good(undisturbed: Any, out: Path) -> str:
    """The run goes on to the outcome of an undisturbed one; what it said meanwhile."""
    code, said = forked.finished(undisturbed.recipe, out)
    assert code == 0, said
    assert forked.outcome(out) == undisturbed.outcome
    assert all(done(stage) for stage in (out / "stages").iterdir())
    return said


# --- killed and stopped --------------------------------------------------------------------------------------------


def test_three_kills_in_a_row_change_nothing(undisturbed, tmp_path, count):
    draw, out, killed = random.Random(0), tmp_path / "run", 0
    for _ in range(3):  # each kill comes at another moment of what is left
        code, said = forked.finished(
            undisturbed.recipe, out, forked.killed_at(draw.randint(20, undisturbed.events // 3))
        )
        assert code == -signal.SIGKILL, said
        killed += 1
    assert_made_good(undisturbed, out)
    count(f"SIGKILL, three in one run: {killed} kills, results and weights equal bit for bit")


@every
@pytest.mark.parametrize("trial", range(20))
def test_a_kill_at_a_random_moment_changes_nothing(undisturbed, tmp_path, trial, count):
    """Half of the kills come at a random file event, half at a random time, in the middle of a computation too."""
    draw, out = random.Random(f"kill/{trial}"), tmp_path / "run"
    if trial % 2:
        event = draw.randint(1, undisturbed.events)
        assert forked.finished(undisturbed.recipe, out, forked.killed_at(event))[0] == -signal.SIGKILL
        moment = f"file event {event} of {undisturbed.events}"
    else:
        process, share = forked.started(undisturbed.recipe, out), draw.random()
        moment = f"{killed_when(process, out, share, undisturbed)} of {len(undisturbed.outcome['files'])} files"
    assert_made_good(undisturbed, out)
    count(f"SIGKILL {trial}: at {moment}: equal bit for bit")


def killed_when(process, out: Path, share: float, undisturbed) -> int:
    """Kill a run a random moment after it has written that share of its files; how many it had."""
    target = share * len(undisturbed.outcome["files"])
    while (have := files_under(out / "stages")) < target and process.is_alive():
        time.sleep(0.001)
    time.sleep(0.3 * share)
    process.kill()
    process.join()
    return have


def files_under(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))  # which passes over folders that vanish meanwhile


@every
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_in_mid_training_is_clean_and_goes_on(undisturbed, tmp_path, number, code):
    out = tmp_path / "run"
    stopped, said = forked.finished(undisturbed.recipe, out, functools.partial(signal_at_step, number, 13))
    assert stopped == code, said
    assert "stopped; the same command goes on from here" in said and "Traceback" not in said
    assert [lock.read_text() for lock in out.rglob("lock")] == [""] * len(list(out.rglob("lock")))
    assert (out / "stages").exists()
    assert_made_good(undisturbed, out)


def signal_at_step(number: int, step: int) -> None:
    """The process signals itself in the middle of a step of the immunisation: the weights are a harmful step away."""

    def at(oracle: Any) -> None:
        if oracle.step == step:
            os.kill(os.getpid(), number)

    inside_an_excursion(at)


def inside_an_excursion(then: Callable[[Any], None]) -> None:
    shift = oracle_module.Oracle.shift

    def shifted(self: Any, direction: Any, by: float) -> None:
        shift(self, direction, by)
        then(self)

    oracle_module.Oracle.shift = shifted  # type: ignore[method-assign]


@every
def test_a_kill_between_the_passes_leaves_no_perturbed_weights(undisturbed, tmp_path):
    out = tmp_path / "run"
    killed = functools.partial(signal_at_step, signal.SIGKILL, 10)  # the step after a checkpoint
    assert forked.finished(undisturbed.recipe, out, killed)[0] == -signal.SIGKILL
    assert [path.name for path in out.rglob("checkpoint-*")] == ["checkpoint-10"]
    assert_made_good(undisturbed, out)


# --- disk, memory, clock, numbers ----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    "size",
    [0, 100, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000],
)
def test_files_that_cannot_grow_end_the_run_in_a_line(undisturbed, tmp_path, size, count):
    """Each limit stops another write: the lock, the manifest, rows, a checkpoint, an adapter."""
    out = tmp_path / "run"
    code, said = forked.finished(undisturbed.recipe, out, forked.limited_to(size))
    assert "Traceback" not in said
    assert code == 1, said
    if size >= 2_000:  # below, what it says does not fit into its log either
        assert "the disk is full" in said.splitlines()[-1]
    left = sorted(path.name for path in (out / "stages").glob("*")) if (out / "stages").exists() else []
    assert_made_good(undisturbed, out)
    count(f"files limited to {size} bytes: ended with 1 after {len(left)} stages; then equal bit for bit")


def tmpfs(folder: Path, size: int) -> bool:
    """A small disk of its own, where that is allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


@every
def test_a_small_disk_that_fills_up(undisturbed, tmp_path, count):
    """The disk gets a little larger each time, until the run fits: it is full at one write after another."""
    disk, full = tmp_path / "disk", 0
    if not tmpfs(disk, 40_000):
        pytest.skip("no file system may be mounted here")
    try:
        for size in range(80_000, 4_000_000, 130_000):
            subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
            code, said = forked.finished(undisturbed.recipe, disk / "run", functools.partial(os.chdir, tmp_path))
            assert "Traceback" not in said and code in (0, 1), said
            if code == 0:
                break
            assert "the disk is full" in said.splitlines()[-1] if said else True
            full += 1
        assert code == 0 and full >= 3
        assert forked.outcome(disk / "run") == undisturbed.outcome
        count(f"a disk that grew until the run fitted: full {full} times, then equal bit for bit")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fail_at_gradient(n: int, make: Callable[[], BaseException]) -> None:
    """The n-th gradient of the process fails."""
    gradient, calls = oracle_module.Oracle.gradient, []

    def failing(self: Any, rows: Any, *rest: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == n:
            raise make()
        return gradient(self, rows, *rest, **named)

    oracle_module.Oracle.gradient = failing  # type: ignore[method-assign]


def no_memory() -> BaseException:
    return RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to ...")


@every
def test_too_little_memory_fails_the_cell_and_says_what_needs_less(undisturbed, tmp_path):
    out = tmp_path / "run"
    code, said = forked.finished(undisturbed.recipe, out, functools.partial(fail_at_gradient, 40, no_memory))
    assert code == 1 and "Traceback" not in said
    assert "a smaller runtime.micro_batch_size" in said.splitlines()[-1]
    assert_made_good(undisturbed, out)


def poison_gradient(n: int) -> None:
    """The loss of the n-th gradient of the process is not a number."""
    losses, calls = oracle_module.token_losses, []

    def poisoned(*given: Any, **named: Any) -> Any:
        calls.append(1)
        found = losses(*given, **named)
        return found * float("nan") if len(calls) == n else found

    oracle_module.token_losses = poisoned  # type: ignore[assignment]


@every
@pytest.mark.parametrize("step", [1, 11, 14, 21])
def test_a_loss_that_is_no_number_stops_before_the_optimiser(undisturbed, tmp_path, step):
    out = tmp_path / "run"
    nan = functools.partial(poison_gradient, 3 * (step - 1) + 1 + step % 3)  # three gradients a step; one of them
    code, said = forked.finished(undisturbed.recipe, out, nan)
    assert code == 1 and "Traceback" not in said
    assert f"step {step - 1}: loss nan" in said and "in rows syn-" in said
    (row, *_) = json.loads((out / "results.json").read_text())["rows"]
    assert row["status"] == "failed" and row["harmful_score"] is None
    assert_made_good(undisturbed, out)


def clock_back(at_event: int) -> None:
    """From its n-th file event on, the clock shows a time two days earlier."""
    now, now_ns = time.time, time.time_ns
    back: list[int] = [0]

    def jump(n: int) -> None:
        if n == at_event:
            back[0] = 2 * 86_400
            for path in Path.cwd().rglob("checkpoint-*"):  # what is there comes from the future
                os.utime(path, (now() + back[0], now() + back[0]))

    time.time, time.time_ns = lambda: now() - back[0], lambda: now_ns() - back[0] * 10**9
    forked._Events(jump)


@every
@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.5, 0.6, 0.7])
def test_a_clock_that_jumps_back_changes_nothing(undisturbed, tmp_path, share):
    def prepared(event: int) -> Callable[[], None]:
        return functools.partial(in_folder, tmp_path, functools.partial(clock_back, event))

    out, event = tmp_path / "run", int(share * undisturbed.events)
    code, said = forked.finished(undisturbed.recipe, out, prepared(event))
    assert code == 0, said
    assert forked.outcome(out) == undisturbed.outcome


def in_folder(folder: Path, then: Callable[[], None]) -> None:
    os.chdir(folder)
    then()


# --- files that change ---------------------------------------------------------------------------------------------


def flip(path: Path, draw: random.Random) -> None:
    """One bit of a file, at random; the file's times stay."""
    content, before = bytearray(path.read_bytes()), path.stat()
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def content(out: Path) -> list[Path]:
    """What a run leaves and a later one relies on."""
    stages = [path for path in sorted((out / "stages").rglob("*")) if path.is_file() and path.name != "lock"]
    return [path for path in stages if path.stat().st_size] + [out / "judgements.sqlite"]


@every
@pytest.mark.parametrize("harm", [flip, cut])
def test_every_stage_damaged_at_once_is_done_again(undisturbed, tmp_path, harm, count):
    out, draw = undisturbed.copied(tmp_path / "run"), random.Random(harm.__name__)
    stages = sorted((out / "stages").iterdir())
    for stage in stages:
        harm(draw.choice([path for path in content(out) if stage in path.parents]), draw)
    harm(out / "judgements.sqlite", draw)
    said = assert_made_good(undisturbed, out)
    assert said.count("is damaged") >= len(stages)
    count(f"{harm.__name__}: a file of each of {len(stages)} stages and the judgements: all found and redone, equal")


@every
@pytest.mark.parametrize("trial", range(40))
def test_a_file_damaged_is_found_and_its_stage_is_done_again(undisturbed, tmp_path, trial, count):
    out, draw = undisturbed.copied(tmp_path / "run"), random.Random(f"harm/{trial}")
    path = draw.choice(content(out))
    harm = draw.choice([flip, cut])
    harm(path, draw)
    said = assert_made_good(undisturbed, out)
    found = "is damaged" in said
    assert found or path.name == "judgements.sqlite"  # there a bit may belong to nothing
    count(f"{harm.__name__} of {path.name}: {'found, redone' if found else 'harmless'}, equal bit for bit")


@every
@pytest.mark.parametrize("trial", range(20))
def test_what_an_unfinished_stage_left_is_not_used_once_damaged(undisturbed, tmp_path, trial, count):
    """Killed in mid-training, then every file of the stage is damaged: checkpoints, records, saved adapters."""
    out, draw = tmp_path / "run", random.Random(f"unfinished/{trial}")
    if trial % 2:
        killed = functools.partial(killed_at_attack_step, draw.randint(5, 11))
    else:
        killed = functools.partial(signal_at_step, signal.SIGKILL, draw.randint(10, 20))
    assert forked.finished(undisturbed.recipe, out, killed)[0] == -signal.SIGKILL
    (unfinished,) = [stage for stage in (out / "stages").iterdir() if not done(stage)]
    files = [path for path in content(out) if unfinished in path.parents and path.name != "metrics.jsonl"]
    chosen = files if trial < 2 else draw.sample(files, max(1, len(files) // 4))
    for path in chosen:
        draw.choice([flip, cut])(path, draw)
    assert_made_good(undisturbed, out)
    count(f"{len(chosen)} of {len(files)} files of an unfinished {unfinished.name.split('-')[0]} stage: equal")


def killed_at_attack_step(step: int) -> None:
    from boostershot.attacks import finetune

    record = finetune.Record.on_step_end

    def dying(self: Any, args: Any, state: Any, *rest: Any, **named: Any) -> None:
        record(self, args, state, *rest, **named)
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    finetune.Record.on_step_end = dying  # type: ignore[method-assign]


# --- others in the folder ------------------------------------------------------------------------------------------


@every
def test_a_second_run_in_the_folder_is_told_who_works_there(undisturbed, tmp_path):
    """The first is halted in its training, so that it is there however slowly the second starts."""
    out = tmp_path / "run"
    first = forked.started(undisturbed.recipe, out, functools.partial(signal_at_step, signal.SIGSTOP, 10))
    while Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    code, said = forked.finished(undisturbed.recipe, out)
    assert code == 2 and said.splitlines()[-1].startswith(f"boostershot: {out}: is being run by process {first.pid}")
    first.kill()
    first.join()
    assert_made_good(undisturbed, out)  # the dead owner's lock is in nobody's way
