"""The command line: exit codes, one line for each error, what goes where, and what a stop leaves behind."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boostershot import cli, recipes
from boostershot.errors import InputError, StageFailed
from boostershot.pipeline import grid
from boostershot.pipeline.files import write_json

Captured = pytest.CaptureFixture[str]

ROW: dict[str, Any] = {
    "defense": "sft", "attack": "mix", "adapter": "continue", "p": 0.2, "seed": 0, "attack_step": 40,
    "judge": "offline", "task": "chain_sum", "split": "test", "status": "done", "error": None,
    "harmful_score": 50.0, "finetune_accuracy": 70.0, "harmful_loss": 1.5,
}  # fmt: skip
FIGURE = {"mean": 50.0, "ci": [42.0, 58.0]}
CELL = ("defense", "attack", "adapter", "p", "attack_step", "judge", "task", "split")
ITEM = {key: ROW[key] for key in CELL} | {
    "n_seeds": 1, "harmful_score": FIGURE, "finetune_accuracy": FIGURE, "harmful_loss": FIGURE,
    "harmful_loss_own": None, "degenerate_share": FIGURE, "minus_sft": None,
}  # fmt: skip
CONTENT = {"schema": 1, "recipe": "quickstart", "baseline": [], "rows": [ROW], "summary": [ITEM], "comparisons": []}


class FakeRun:
    """In place of grid.run: notes how it was called, writes results and does what the test says."""

    def __init__(self, then: Callable[[Path], None] = lambda folder: None, writes: bool = True):
        self.then, self.writes = then, writes
        self.calls: list[tuple[Any, Path, dict[str, Any]]] = []

    def __call__(self, recipe: Any, folder: Path, **options: Any) -> None:
        self.calls.append((recipe, folder, options))
        folder.mkdir(parents=True, exist_ok=True)
        options["reporter"].line("at work [0, 1]")
        if self.writes:
            write_json(folder / "results.json", CONTENT)
        self.then(folder)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRun]:
    def install(*arguments: Any, **keywords: Any) -> FakeRun:
        run = FakeRun(*arguments, **keywords)
        monkeypatch.setattr(grid, "run", run)
        return run

    return install


def raises(error: BaseException) -> Callable[[Path], None]:
    def then(folder: Path) -> None:
        raise error

    return then


def one_line(captured: Captured) -> str:
    """The only line on the standard error; nothing on the standard output."""
    out, err = captured.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("boostershot: ")
    return line.removeprefix("boostershot: ")


@pytest.mark.parametrize(
    ("command", "until"), [("run", "report"), *((c, c) for c in ("immunize", "attack", "evaluate"))]
)
def test_a_command_does_its_part_of_the_recipe(
    fake: Callable[..., FakeRun], capsys: Captured, command: str, until: str
) -> None:
    run = fake()
    assert cli.call([command, "quickstart", "--set", "immunize.steps=3", "--set", "seeds=[1, 2]"]) == 0
    ((recipe, folder, options),) = run.calls
    assert (recipe.immunize.steps, recipe.seeds) == (3, (1, 2))
    assert folder == Path("runs/quickstart")
    assert (options["until"], options["redact"]) == (until, False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "at work [0, 1]" in err
    assert "50.0 [42, 58]" in err


@pytest.mark.parametrize("command", ["run", "immunize", "attack", "evaluate"])
def test_scale_is_part_of_the_recipe(fake: Callable[..., FakeRun], capsys: Captured, command: str) -> None:
    run = fake()
    assert cli.call([command, "quickstart", "--scale", "0.001"]) == 0
    assert run.calls[0][0].to_dict()["scale"] == 0.001
    assert cli.call(["run", "quickstart", "--scale", "1e-05", "--dry-run"]) == 0
    assert "at scale 1e-05 of the recipe's samples and steps" in capsys.readouterr().err


def test_results_go_to_the_standard_output_and_people_s_text_does_not(
    fake: Callable[..., FakeRun], capsys: Captured, tmp_path: Path
) -> None:
    run = fake()
    assert cli.call(["run", "quickstart", "--json", "--quiet", "--redact", "--out", str(tmp_path / "here")]) == 0
    assert run.calls[0][1] == tmp_path / "here"
    assert run.calls[0][2]["redact"] is True
    out, err = capsys.readouterr()
    assert json.loads(out) == CONTENT
    assert err == ""


def test_results_of_an_earlier_run_are_not_shown_as_this_ones(fake: Callable[..., FakeRun], capsys: Captured) -> None:
    write_json(Path("results.json"), CONTENT)
    fake(writes=False)
    assert cli.call(["immunize", "quickstart", "--out", "."]) == 0
    assert capsys.readouterr() == ("", "at work [0, 1]\n")


def test_failed_cells_end_with_the_table_and_1(fake: Callable[..., FakeRun], capsys: Captured) -> None:
    fake(raises(StageFailed("1 of 2 cells failed (booster: the loss\nis nan)")))
    assert cli.call(["run", "quickstart"]) == 1
    _, err = capsys.readouterr()
    assert "50.0 [42, 58]" in err
    assert err.splitlines()[-1] == "boostershot: 1 of 2 cells failed (booster: the loss is nan)"
    assert not Path("runs/quickstart/crash.log").exists()


def test_wrong_input_found_late_is_2(fake: Callable[..., FakeRun], capsys: Captured) -> None:
    fake(raises(InputError("rows.jsonl: row 3 has no column 'chosen'")), writes=False)
    assert cli.call(["run", "quickstart", "--quiet"]) == 2
    assert one_line(capsys) == "rows.jsonl: row 3 has no column 'chosen'"


def test_the_unforeseen_leaves_its_traceback_in_the_run_folder(fake: Callable[..., FakeRun], capsys: Captured) -> None:
    fake(raises(LookupError("no such\nlayer")), writes=False)
    assert cli.call(["run", "quickstart", "--quiet"]) == 1
    assert one_line(capsys) == "LookupError: no such (traceback in runs/quickstart/crash.log)"
    log = Path("runs/quickstart/crash.log").read_text()
    assert "Traceback" in log and "LookupError: no such\nlayer" in log


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_said_with_a_way_out(
    fake: Callable[..., FakeRun], capsys: Captured, error: Exception
) -> None:
    fake(raises(error), writes=False)
    assert cli.call(["run", "quickstart", "--quiet"]) == 1
    assert "a smaller runtime.micro_batch_size" in one_line(capsys)


def test_a_full_disk_outside_a_stage_is_1(fake: Callable[..., FakeRun], capsys: Captured) -> None:
    fake(raises(OSError(28, "No space left on device")), writes=False)
    assert cli.call(["run", "quickstart", "--quiet"]) == 1
    assert one_line(capsys).startswith("runs/quickstart: the disk is full")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["run"], "Missing argument"),
        (["run", "quickstart", "--out"], "--out"),
        (["run", "quickstart", "--dry"], "No such option: --dry"),
        (["rum", "quickstart"], "No such command 'rum'"),
        (["run", "quickstrt"], 'did you mean "quickstart"?'),
        (["run", "missing.yaml"], "missing.yaml: no such file"),
        (["run", "quickstart", "--set", "immunize.stpes=3"], 'immunize.stpes: unknown key'),
        (["run", "quickstart", "--set", "immunize.steps"], "has no value; expected key.path=value"),
        (["run", "quickstart", "--set", "defenses.booster.lam=true"], "defenses.booster.lam: is true"),
        (["run", "quickstart", "--scale", "0"], "quickstart: scale: is 0.0; expected more than 0"),
        (["run", "quickstart", "--scale", "half"], "Invalid value for '--scale'"),
        (["run", "quickstart", "--set", "defenses.c={method: ctrap, alpha: 1}"], "data.general: is missing"),
        (["attack", "quickstart", "--json"], "--json: is given, and attack comes to no results"),
        (["report", "nowhere"], "nowhere: no such run folder"),
        (["report", "."], "results.json: not there"),
        (["recipes", "quick-start"], 'did you mean "quickstart"?'),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_2(
    fake: Callable[..., FakeRun], capsys: Captured, arguments: list[str], message: str
) -> None:
    run = fake()
    assert cli.call(arguments) == 2
    assert message in one_line(capsys)
    assert run.calls == []
    assert list(Path().iterdir()) == []


def test_the_attackers_budget_may_hold_lists(fake: Callable[..., FakeRun], capsys: Captured) -> None:
    run = fake()
    budget = "trials=4,steps=20,samples=80,epsilons=[0.05,0.1],space={lr: {low: 1e-5, high: 1e-3}, p: [0.5, 1.0]}"
    assert cli.call(["sweep", "quickstart", "--attacker", budget]) == 0
    attacker = run.calls[0][0].sweep.attacker
    assert (attacker.trials, attacker.epsilons) == (4, (0.05, 0.1))
    assert attacker.budgeted["p"].choices == (0.5, 1.0)


def test_a_dry_run_does_nothing(fake: Callable[..., FakeRun], capsys: Captured) -> None:
    run = fake()
    assert cli.call(["run", "quickstart", "--dry-run", "--set", "seeds=[7]"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "booster" in err and "seed 7" in err
    assert run.calls == []
    assert list(Path().iterdir()) == []


def test_the_recipes_are_listed_and_printed(capsys: Captured, tmp_path: Path) -> None:
    assert cli.call(["recipes"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == recipes.names()
    assert all(len(line.split()) > 3 for line in listed)
    assert cli.call(["recipes", "quickstart"]) == 0
    assert capsys.readouterr().out == recipes.text("quickstart")


def test_the_version_is_told(capsys: Captured) -> None:
    assert cli.call(["--version"]) == 0
    assert capsys.readouterr().out.startswith("boostershot")


def test_no_telemetry_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    cli.call(["recipes"])
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_sigterms_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    cli.call(["recipes"])
    assert signal.getsignal(signal.SIGTERM) is before


# grid.run holds a stage and sleeps; torch stays out, so that the process starts at once.
STOPPABLE = """
import signal, sys, time, types
from pathlib import Path
import boostershot.pipeline as pipeline
from boostershot.config import load_recipe
from boostershot.pipeline.store import Store
from boostershot import cli

def work(folder):
    print("at work", flush=True)
    time.sleep(60)

def run(recipe, folder, **options):
    store = Store(folder)
    with store.claimed(recipe.name):
        store.run("immunize", {}, [], work)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
pipeline.grid = sys.modules["boostershot.pipeline.grid"] = types.SimpleNamespace(run=run)
reporter = types.SimpleNamespace(Reporter=lambda *_: None)
sys.modules["boostershot.pipeline.progress"] = pipeline.progress = reporter
sys.argv = ["boostershot", "run", "quickstart", "--out", "here"]
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_releases_the_locks_and_says_how_to_go_on(number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPABLE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == "boostershot: stopped; the same command goes on from here\n"
    locks = [Path("here/lock"), *Path("here/stages").glob("*/lock")]
    assert [lock.read_text() for lock in locks] == ["", ""]
    (status,) = Path("here/stages").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"


def terminal_output(command: list[str], **environment: str) -> str:
    """What the command writes to a terminal that is its standard error."""
    ours, theirs = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    with os.fdopen(ours, "rb", buffering=0) as reader:
        process = subprocess.Popen(command, stderr=theirs, env=plain | {"TERM": "xterm-256color"} | environment)
        os.close(theirs)
        written = b""
        try:
            while chunk := reader.read(1 << 16):
                written += chunk
        except OSError:  # how a terminal ends
            pass
        assert process.wait() == 0
    return written.decode()


def test_no_color_gives_plain_text_on_a_terminal() -> None:
    code = (
        "from rich.text import Text; from boostershot.cli.console import console; "
        "console().print(Text('done', style='bold red'), '[bold]')"
    )
    command = [sys.executable, "-c", code]
    assert "\x1b[" in terminal_output(command)
    assert terminal_output(command, NO_COLOR="1").strip() == "done [bold]"


def test_the_module_is_the_command_and_starts_without_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['boostershot', *{}]\n"
        "try: runpy.run_module('boostershot', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    for arguments, exit_code in (
        (["--help"], 0),
        (["recipes"], 0),
        (["launchers"], 0),
        (["run", "quickstart", "--set", "nmae=x"], 2),
    ):
        done = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == f"{exit_code} False False"
