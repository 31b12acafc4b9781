"""The stages after an alignment, end to end: what they do to the model, and what a stop leaves to do."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from boostershot import SFT, Booster, ImmunizeArguments, InputError, LoX, NoiseAndDistil, immunize
from boostershot.config import build_defense
from boostershot.core.oracle import Oracle
from boostershot.data.rows import Completion
from boostershot.defenses.finishing import trainings_of
from boostershot.training import finish as finishing
from boostershot.training.cost import Cost
from boostershot.training.metrics import MetricsFile
from boostershot.training.trainer import DefenseTrainer
from tiny import preference_rows, tiny_gpt2, tiny_llama, tiny_tokenizer

LORA = {"rank": 4, "alpha": 8, "dropout": 0.2, "targets": "all-linear"}
GENERAL = [Completion(f"g{i}", row["prompt"], row["rejected"]) for i, row in enumerate(preference_rows(9))]
STAGES = LoX(factor=0.5, align=NoiseAndDistil(shrink=0.3, steps=6, lr=1e-3, align=Booster(alpha=0.1)))


def run(folder, defense, lora=None, general=GENERAL, seed=42, rows=None, model=None, callbacks=()):
    """Five steps of alignment; checkpoints every second step, of the distillation too."""
    args = ImmunizeArguments(
        output_dir=str(folder),
        max_steps=5,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=2,
        seed=seed,
        lora=lora,
        disable_tqdm=True,
        use_cpu=True,
    )
    model = model or (tiny_llama(320) if lora else tiny_gpt2(320, dropout=0.2))
    data = rows or preference_rows(10)
    return immunize(model, tiny_tokenizer(True), data, defense, args, general=general, callbacks=callbacks)


def weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters() if param.requires_grad}


def equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):
    """The kill."""


@pytest.fixture
def steps(monkeypatch):
    """The steps taken, each as (objective, number); `steps.stop_before` is one that raises."""

    class Steps(list):
        stop_before = None

    taken, training_step = Steps(), DefenseTrainer.training_step

    def watched(self, *args, **kwargs):
        step = (type(self.defense).__name__, self.state.global_step)
        if step == taken.stop_before:
            raise Stop
        taken.append(step)
        return training_step(self, *args, **kwargs)

    monkeypatch.setattr(DefenseTrainer, "training_step", watched)
    return taken


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_lox_extrapolates_what_was_aligned_from_where_it_began(tmp_path, lora):
    aligned = run(tmp_path / "sft", SFT(), lora)
    start = {} if lora else {f"start/{name}": param for name, param in tiny_gpt2(320).named_parameters()}
    LoX(factor=0.5, rank=2).finish(Oracle(aligned, tensors=start))
    assert equal(weights(run(tmp_path / "lox", LoX(factor=0.5, rank=2), lora)), weights(aligned))


def test_the_distillation_brings_the_student_back_to_the_teacher(tmp_path, steps):
    def distances(shrink, steps):
        """Of the answers on general rows, by KL, at the first and the last step."""
        run(tmp_path / f"{shrink}-{steps}", NoiseAndDistil(shrink=shrink, noise=0.1, steps=steps, lr=3e-3))
        lines = (tmp_path / f"{shrink}-{steps}" / "finish" / "1" / "metrics.jsonl").read_text().splitlines()
        return [float(line.split('"divergence_general": ')[1].split(",")[0]) for line in (lines[0], lines[-1])]

    first, last = distances(0.5, 30)
    assert first > 0.01 and last < 0.5 * first
    assert distances(0.0, 2)[0] < 1e-6
    assert steps[:5] == [("SFT", i) for i in range(5)]
    assert steps[5:35] == [("Distil", i) for i in range(30)]


def test_the_distillation_counts_in_what_the_defence_costs(tmp_path, monkeypatch):
    clock = iter([t for seconds in (3, 1, 1, 1, 1, *[5] * 6) for t in (0, seconds)])
    monkeypatch.setattr("boostershot.training.cost.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    peaks = iter([700, 400])
    monkeypatch.setattr("boostershot.training.cost.peak_memory", lambda: next(peaks))
    cost, metrics = Cost(), MetricsFile(tmp_path / "metrics.jsonl")
    run(tmp_path / "run", STAGES, callbacks=[cost, metrics])
    assert cost.seconds_per_step == pytest.approx(37 / 11)
    assert cost.peak_memory_bytes == 700
    assert [(n, one.passes) for n, one in trainings_of(STAGES, 5)] == [(5, 3), (6, pytest.approx(2 + 2 / 3))]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5  # the distillation has its own file


@pytest.fixture(scope="module", params=[LORA, None], ids=["lora", "full"])
def uninterrupted(request, tmp_path_factory):
    """An adapter or none, and the weights to which STAGES bring it."""
    return request.param, weights(run(tmp_path_factory.mktemp("whole"), STAGES, request.param))


@pytest.mark.parametrize(
    ("stop", "redone"),
    [
        (("Booster", 3), [("Booster", 2), ("Booster", 3), ("Booster", 4), *(("Distil", i) for i in range(6))]),
        (("Distil", 0), [("Distil", i) for i in range(6)]),
        (("Distil", 3), [("Distil", i) for i in range(2, 6)]),
    ],
    ids=["alignment", "its end", "distillation"],
)
def test_a_stop_loses_no_finished_work_and_ends_at_the_same_weights(tmp_path, steps, uninterrupted, stop, redone):
    lora, whole = uninterrupted
    steps.stop_before = stop
    with pytest.raises(Stop):
        run(tmp_path, STAGES, lora)
    steps.stop_before = None
    steps.clear()
    torch.manual_seed(99)  # the new process has another random state
    resumed = weights(run(tmp_path, STAGES, lora))
    assert steps == redone
    assert equal(resumed, whole)


def test_a_stop_after_a_stage_begins_with_the_next(tmp_path, steps, monkeypatch, uninterrupted):
    lora, whole = uninterrupted

    def stop(*_):
        raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(LoX, "finish", stop)
        run(tmp_path, STAGES, lora)
    steps.clear()
    assert equal(weights(run(tmp_path, STAGES, lora)), whole)
    assert steps == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"defense": LoX(rank=2, align=SFT())}, "method"),
        ({"defense": LoX(factor=0.7, rank=2, align=Booster(alpha=0.1))}, "method"),
        ({"seed": 4}, "seed"),
        ({"rows": preference_rows(11)}, "data"),
        ({"model": tiny_llama(320, seed=1)}, "frozen weights"),
    ],
    ids=["alignment", "stage", "seed", "data", "model"],
)
def test_the_weights_of_another_training_are_refused(tmp_path, steps, change, named):
    defense = LoX(rank=2, align=Booster(alpha=0.1))
    run(tmp_path, defense, LORA)
    for path in tmp_path.glob("checkpoint-*"):  # which would be refused anyway
        shutil.rmtree(path)
    steps.clear()
    with pytest.raises(InputError, match=rf"weights-start.safetensors: is of another training \(other .*{named}"):
        run(tmp_path, **{"defense": defense, "lora": LORA, **change})
    assert steps == []


def test_half_written_weights_do_not_count(tmp_path, steps, monkeypatch, uninterrupted):
    lora, whole = uninterrupted
    save_file = finishing.save_file

    def cut_short(tensors, path):
        if len(steps) < 5:  # the weights before the alignment
            return save_file(tensors, path)
        path.write_bytes(b"half")
        raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(finishing, "save_file", cut_short)
        run(tmp_path, STAGES, lora)
    assert equal(weights(run(tmp_path, STAGES, lora)), whole)


def test_the_rows_of_the_distillation_are_asked_for_before_the_alignment(tmp_path, steps):
    with pytest.raises(InputError, match="needs general text"):
        run(tmp_path, NoiseAndDistil(), general=())
    assert steps == []


def test_a_recipe_nests_them_and_refuses_them_inside_another_defence():
    booster = {"method": "booster", "alpha": 0.1}
    built = build_defense({"method": "lox", "factor": 0.5, "rank": None, "align": booster}, "defenses.x")
    assert built == LoX(factor=0.5, rank=None, align=Booster(alpha=0.1))
    with pytest.raises(InputError, match=r"defenses\.x: LoX follows an alignment and cannot be a part of Booster"):
        build_defense({**booster, "align": {"method": "lox"}}, "defenses.x")
