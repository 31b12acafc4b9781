"""What a training goes on from: its own checkpoints only, whole ones, and nothing in them that could run."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from boostershot import SFT, Booster, ImmunizeArguments, InputError, immunize
from boostershot.training.checkpoints import MARK, mark
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

HERE = Path(__file__).parent


class Stop(Exception):
    """The kill."""


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stop


def train(folder, defense=None, rows=None, stop=None, callbacks=(), model=None, **changed):
    """Five steps with checkpoints after the second and the fourth; stopped in the last."""
    args = ImmunizeArguments(
        output_dir=str(folder),
        disable_tqdm=True,
        use_cpu=True,
        save_steps=2,
        **{"max_steps": 5, "per_device_train_batch_size": 4, "seed": 3, "lora": {"rank": 2}, **changed},
    )
    defense = defense or Booster(lam=5.0, alpha=0.1)
    callbacks = [*([StopAfter(stop)] if stop else []), *callbacks]
    model = model or tiny_llama(320)
    model = immunize(model, tiny_tokenizer(True), rows or preference_rows(18), defense, args, callbacks=callbacks)
    return {name: param.detach().clone() for name, param in model.state_dict().items()}


@pytest.fixture
def stopped(tmp_path):
    with pytest.raises(Stop):
        train(tmp_path / "run", stop=4)
    return tmp_path / "run"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"defense": Booster(lam=6.0, alpha=0.1)}, "method"),
        ({"defense": SFT()}, "method"),
        ({"rows": preference_rows(17)}, "data"),
        ({"rows": [row | {"rejected": row["rejected"] + "!"} for row in preference_rows(18)]}, "data"),
        ({"lora": {"rank": 3}}, "trained weights"),
        ({"per_device_train_batch_size": 3}, "batch"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"seed": 4}, "seed"),
        ({"max_steps": 6}, "max_steps"),
        ({"lora": {"rank": 2, "alpha": 3}}, "lora"),
        ({"lora": {"rank": 2, "dropout": 0.1}}, "lora"),
        ({"model": tiny_llama(320, seed=1)}, "frozen weights"),
        ({"adam_beta2": 0.99}, "adam_beta2"),
        ({"lr_scheduler_kwargs": {"last_epoch": -1}}, "lr_scheduler_kwargs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_checkpoint_of_another_training_is_refused(stopped, change, named):
    with pytest.raises(InputError, match=rf"checkpoint-4: is of another training \(other .*{named}") as caught:
        train(stopped, **change)
    assert "\n" not in str(caught.value)
    assert (stopped / "checkpoint-4" / MARK).exists()  # refusing destroys nothing


@pytest.mark.parametrize(("key", "then"), [("processes", 2), ("versions", {"torch": "1.0"})])
def test_another_number_of_processes_or_version_is_said_and_goes_on(stopped, key, then):
    record = json.loads((stopped / "checkpoint-4" / MARK).read_text())["training"]
    mark(stopped / "checkpoint-4", record | {key: then})
    with pytest.warns(UserWarning, match=f"checkpoint-4: was written with {key}"):
        train(stopped)


def test_a_base_model_with_rounding_of_another_merge_is_the_same(stopped):
    model = tiny_llama(320)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1 + 1e-7)
    train(stopped, model=model)


def test_micro_batches_are_no_part_of_a_training(stopped):
    train(stopped, micro_batch_size=2)


@pytest.mark.parametrize("lora", [{"rank": 2, "dropout": 0.1}, None], ids=["adapter's", "model's"])
def test_but_for_dropout_whose_masks_they_decide(tmp_path, lora):
    with pytest.raises(Stop):
        train(tmp_path, stop=4, lora=lora, model=tiny_gpt2(320, dropout=0.1 if lora is None else 0.0))
    again = {"lora": lora, "model": tiny_gpt2(320, dropout=0.1 if lora is None else 0.0)}
    with pytest.raises(InputError, match="other forward passes"):
        train(tmp_path, micro_batch_size=2, **again)
    train(tmp_path, micro_batch_size=4, **again)  # the whole batch, as before


def test_of_two_checkpoints_the_sound_one_is_gone_on_from(stopped, tmp_path):
    whole = train(tmp_path / "whole")
    path = stopped / "checkpoint-4" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint-4: is damaged \(optimizer.pt is not what was written\)"):
        assert same(whole, train(stopped))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "rng_state_1.pth"])
def test_a_file_that_was_not_written_with_a_checkpoint_is_refused(stopped, name):
    (stopped / "checkpoint-4" / name).write_bytes(b"planted")
    with pytest.raises(InputError, match=f"checkpoint-4: holds {name}, which was not written with it"):
        train(stopped)
    assert (stopped / "checkpoint-4" / name).read_bytes() == b"planted"


def test_what_a_callback_of_the_user_s_writes_into_a_checkpoint_belongs_to_it(tmp_path):
    class Notes(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            (tmp_path / "run" / f"checkpoint-{state.global_step}" / "notes.txt").write_text("mine")

    with pytest.raises(Stop):
        train(tmp_path / "run", stop=4, callbacks=[Notes()])
    train(tmp_path / "run", callbacks=[Notes()])


def test_a_folder_of_the_user_s_in_the_output_folder_stays(tmp_path):
    """One named as ours for cached layers, in a training without them."""
    (tmp_path / "lower").mkdir()
    (tmp_path / "lower" / "mine").write_text("mine")
    train(tmp_path)
    assert (tmp_path / "lower" / "mine").exists()


def test_epochs_of_checkpoints_end_without_one_after_the_last_step(tmp_path):
    """Seven steps of five an epoch: from a checkpoint after the last one, each new start would train a step more."""
    whole = train(tmp_path, max_steps=7, save_strategy="epoch")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]
    assert same(whole, train(tmp_path, max_steps=7, save_strategy="epoch"))


class Runs:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("resealed", [False, True], ids=["", "with a mark of its own"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_no_code_in_a_checkpoint_runs(stopped, tmp_path, name, resealed):
    """Changed files fail their checksum; whoever can write the mark, too, meets `weights_only`."""
    (stopped / "checkpoint-4" / name).write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    if resealed:
        mark(stopped / "checkpoint-4", json.loads((stopped / "checkpoint-4" / MARK).read_text())["training"])
    try:
        train(stopped)
    except Exception as error:
        assert resealed and "weights" in str(error).lower()
    assert not (tmp_path / "ran").exists()


def test_every_file_is_loaded_as_weights_only(stopped, monkeypatch):
    loads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **named: loads.append(named.get("weights_only")) or load(*a, **named))
    train(stopped)
    assert len(loads) >= 3 and all(loads)


def test_older_checkpoints_go_by_number_whatever_the_clock_says(tmp_path):
    class Aging(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            """What is there comes from the future: the clock was set back since."""
            for path in tmp_path.glob("run/checkpoint-*"):
                os.utime(path, (time.time() + 86_400,) * 2)

    with pytest.raises(Stop):
        train(tmp_path / "run", stop=8, callbacks=[Aging()], max_steps=9, save_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("run/checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


# --- one of two processes dies -------------------------------------------------------------------------------------


def launch(folder, *, dies):
    """torchrun with two gloo processes, the second of which kills itself in its third step; code, output, seconds."""
    folder.mkdir(exist_ok=True)
    paths = [str(HERE.parent), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(HERE / "two_processes.py"), str(folder), "dies" if dies else "lives"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


@pytest.mark.faults
def test_when_one_of_two_processes_dies_the_other_stops_and_says_why(tmp_path, count):
    assert launch(tmp_path / "whole", dies=False)[0] == 0
    code, said, _ = launch(tmp_path / "run", dies=True)
    assert (code != 0 and "SIGKILL" in said) or "Signal 9" in said
    died, stopped_at = (float((tmp_path / "run" / name).read_text()) for name in ("died", "stopped"))
    assert stopped_at - died < 60
    assert (tmp_path / "run" / "checkpoint-2" / MARK).exists()
    assert launch(tmp_path / "run", dies=False)[0] == 0
    whole, resumed = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("whole", "run"))
    assert same(whole, resumed)
    count(f"one of two processes killed: the other stopped {stopped_at - died:.1f} s later; resumed, equal bit for bit")
