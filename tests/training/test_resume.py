"""A training that was stopped goes on to the same weights, bit for bit, as one that was not."""

import json
import shutil

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from transformers import TrainerCallback, TrainerState

from boostershot import SFT, TAR, Booster, ImmunizeArguments, InputError, Patcher, immunize
from boostershot.data.rows import Completion
from boostershot.training import trainer
from boostershot.training.checkpoints import BEGUN, begin, last_whole_checkpoint, mark
from boostershot.training.metrics import MetricsFile
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

STEPS = 8
LORA = {"rank": 4, "alpha": 8, "dropout": 0.2, "targets": "all-linear"}


class Fading(SFT):
    """SFT times a factor that shrinks from step to step, kept in `oracle.state`."""

    def step(self, oracle, batch):
        factor = 0.5 * oracle.state.get("factor", 1.0)
        oracle.state["factor"] = factor
        f = oracle.gradient(batch.need("align"))
        return (factor * f).log(alignment_loss=f.loss, factor=factor)


class Stop(Exception):
    """The kill."""


class StopAfter(TrainerCallback):
    """Raises once the logs and the checkpoint of a step are written."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stop


def train(folder, defense, lora, callbacks=()):
    """18 rows in batches of 4: an epoch ends after step 5, in a short batch; checkpoints at steps 3 and 6."""
    model = tiny_llama(320) if lora else tiny_gpt2(320, dropout=0.2)
    args = ImmunizeArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        warmup_steps=2,
        save_steps=3,
        seed=3,
        lora=lora,
        disable_tqdm=True,
        use_cpu=True,
    )
    metrics = MetricsFile(folder.parent / f"{folder.name}.jsonl")
    rows = preference_rows(18)
    general = [Completion(f"general-{i}", row["prompt"], row["rejected"]) for i, row in enumerate(rows[:7])]
    return immunize(model, tiny_tokenizer(True), rows, defense, args, general=general, callbacks=[metrics, *callbacks])


def weights(model):
    return {name: param.detach().clone() for name, param in model.state_dict().items()}


def differing(a, b):
    """The names of the tensors that differ in any bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def without(checkpoint, name):
    """The checkpoint as if this file had never been in it."""
    facts = json.loads((checkpoint / "whole").read_text())["training"]
    (checkpoint / name).unlink()
    mark(checkpoint, facts)


DEFENSES = {
    "sft": SFT(),
    "booster": Booster(lam=5.0, alpha=0.1),
    "stateful": Fading(),
    # A round of 5 steps: the checkpoint at step 3 is inside one, and the stop after it.
    "patcher": Patcher(round=5, steps=(2, 4), lr=(1e-3, 1e-2), adapter="drawn", batches=2),
    "tar": TAR(lam=0.5, steps=2, every=1, lr=1e-3, inner="same"),
}


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("defense", DEFENSES.values(), ids=DEFENSES)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, defense, lora):
    whole = weights(train(tmp_path / "whole", defense, lora))
    with pytest.raises(Stop):
        train(tmp_path / "stopped", defense, lora, [StopAfter(4)])
    torch.manual_seed(99)  # the new process has another random state
    resumed = weights(train(tmp_path / "stopped", defense, lora))
    assert differing(whole, resumed) == []


def test_weights_depend_on_what_the_checkpoint_holds(tmp_path):
    """The test above could not fail if the last steps forgot the first three."""
    whole = weights(train(tmp_path / "whole", SFT(), LORA))
    with pytest.raises(Stop):
        train(tmp_path / "stopped", SFT(), LORA, [StopAfter(4)])
    assert not (tmp_path / "stopped" / "checkpoint-3" / "defense.safetensors").exists()  # it keeps nothing
    without(tmp_path / "stopped" / "checkpoint-3", "optimizer.pt")
    assert differing(whole, weights(train(tmp_path / "stopped", SFT(), LORA)))


@pytest.mark.parametrize("name", ["patcher", "tar"])
def test_weights_depend_on_the_tensors_that_the_checkpoint_holds(tmp_path, name):
    whole = weights(train(tmp_path / "whole", DEFENSES[name], LORA))
    with pytest.raises(Stop):
        train(tmp_path / "stopped", DEFENSES[name], LORA, [StopAfter(4)])
    without(tmp_path / "stopped" / "checkpoint-3", "defense.safetensors")
    assert differing(whole, weights(train(tmp_path / "stopped", DEFENSES[name], LORA)))


def test_a_checkpoint_without_its_tensors_does_not_count(tmp_path, monkeypatch):
    def stop(*_):
        raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(trainer, "save_file", stop)
        train(tmp_path / "stopped", DEFENSES["patcher"], LORA)
    assert (tmp_path / "stopped" / "checkpoint-3").exists()
    assert last_whole_checkpoint(tmp_path / "stopped") is None


def test_training_again_after_the_last_step_takes_no_step_too_many(tmp_path):
    """A stop between the last step and the end of the stage: 8 steps of 5 an epoch, begun again."""
    whole = weights(train(tmp_path / "run", SFT(), LORA))
    assert differing(whole, weights(train(tmp_path / "run", SFT(), LORA))) == []


def test_half_written_checkpoint_is_passed_over_and_removed(tmp_path):
    whole = weights(train(tmp_path / "whole", SFT(), LORA))
    folder = tmp_path / "stopped"
    with pytest.raises(Stop):
        train(folder, SFT(), LORA, [StopAfter(4)])
    half = folder / "checkpoint-6"
    shutil.copytree(folder / "checkpoint-3", half)
    (half / "whole").unlink()
    (half / "optimizer.pt").write_bytes(b"half")
    resumed = weights(train(folder, SFT(), LORA))
    assert differing(whole, resumed) == []


def begun(folder, step):
    """A checkpoint of ours that was stopped before its mark."""
    args = ImmunizeArguments(output_dir=str(folder), use_cpu=True)
    begin(args, TrainerState(global_step=step))
    (folder / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"half")


def test_latest_checkpoint_is_by_number_and_our_unmarked_ones_go(tmp_path):
    for step in (3, 12, 100, 99):
        begun(tmp_path, step)
    (tmp_path / "checkpoint-101").mkdir()  # as a stop leaves it before all else
    (tmp_path / "checkpoint-best").mkdir()  # a name of the user's own
    for step in (3, 12, 99):
        mark(tmp_path / f"checkpoint-{step}", {})
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-99"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"checkpoint-{name}" for name in ("12", "3", "99", "best"))
    ]
    assert last_whole_checkpoint(tmp_path / "nothing here") is None


def test_another_program_s_checkpoint_is_refused_and_stays(tmp_path):
    begun(tmp_path, 3)
    mark(tmp_path / "checkpoint-3", {})
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "model.safetensors").write_bytes(b"days of work")
    with pytest.raises(InputError, match="checkpoint-500: is no checkpoint of boostershot's") as caught:
        train(tmp_path, SFT(), LORA)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "checkpoint-500" / "model.safetensors").read_bytes() == b"days of work"
    assert (tmp_path / "checkpoint-3").exists()


def test_a_stop_while_one_is_removed_leaves_it_ours(tmp_path, monkeypatch):
    begun(tmp_path, 3)

    def stop(path, *args, **kwargs):
        raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(shutil, "rmtree", stop)
        last_whole_checkpoint(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoint-3").iterdir()] == [BEGUN]
    assert last_whole_checkpoint(tmp_path) is None
    assert not (tmp_path / "checkpoint-3").exists()


def first_of_two(rank, folder):
    """What each of two processes goes on from, where only the first sees a checkpoint, and then a stranger's."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mine = folder / str(rank)
    found = [str(last_whole_checkpoint(mine))]
    if rank == 0:
        (mine / "checkpoint-500").mkdir()
        (mine / "checkpoint-500" / "model.safetensors").write_bytes(b"days of work")
    try:
        last_whole_checkpoint(mine)
    except InputError as error:
        found.append(str(error))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.timeout(60)
def test_of_two_processes_the_first_says_for_both_where_they_go_on(tmp_path):
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    begun(tmp_path / "0", 3)
    mark(tmp_path / "0" / "checkpoint-3", {})
    torch.multiprocessing.start_processes(first_of_two, (tmp_path,), nprocs=2, start_method="fork")
    here, there = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert here == there
    assert here[0] == str(tmp_path / "0" / "checkpoint-3") and "checkpoint-500: is no checkpoint" in here[1]


def test_metrics_hold_each_step_once_after_a_resume(tmp_path):
    train(tmp_path / "whole", Fading(), LORA)
    with pytest.raises(Stop):
        train(tmp_path / "stopped", Fading(), LORA, [StopAfter(5)])
    with (tmp_path / "stopped.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a line that the kill cut short
    train(tmp_path / "stopped", Fading(), LORA)
    whole, stopped = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("whole", "stopped")
    )
    assert [line["step"] for line in stopped] == list(range(1, STEPS + 1))
    assert [line["factor"] for line in stopped] == [0.5**step for step in range(1, STEPS + 1)]
    assert [line["alignment_loss"] for line in stopped] == [line["alignment_loss"] for line in whole]
