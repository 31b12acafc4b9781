"""Two processes with a share of the rows each compute what one computes on all of them: every method, DDP and FSDP2."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.fsdp import _fully_shard, fully_shard
from torch.distributed.tensor import DTensor

import boostershot as bs
from batches import Row, batch_of, other_answers, random_rows, relative_difference
from boostershot.core.batch import Rows
from boostershot.core.blocks import decoder_layers
from boostershot.core.oracle import START, NonFiniteError, Oracle
from boostershot.core.sharded import whole
from boostershot.defenses import Defense
from boostershot.training.arguments import attach_lora
from every_defense import SETTINGS
from tiny import tiny_gpt2

ROLES = {role: other_answers(seed=i) for i, role in enumerate(("align", "harmful", "paired", "general", "dev"), 1)}
FINISHING = {name: defense for name, defense in SETTINGS.items() if name in ("lox", "noise_and_distil")}


def full() -> nn.Module:
    """All weights trained; the embedding is also the output's."""
    return tiny_gpt2(dtype=torch.float64, std=0.2)


def adapted() -> nn.Module:
    """A LoRA adapter on frozen weights, some way into its training."""
    model = attach_lora(tiny_gpt2(dtype=torch.float64, std=0.2), {"rank": 2})
    torch.manual_seed(1)
    for param in model.parameters():
        if param.requires_grad:
            param.data = 0.2 * torch.randn(param.shape, dtype=torch.float64)
    return model


def sharded(model: nn.Module) -> nn.Module:
    for layer in decoder_layers(model):
        fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(param, DTensor) for param in model.parameters())
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "full, DDP": full,
    "full, FSDP2": lambda: sharded(full()),
    "LoRA, DDP": adapted,
    "LoRA, FSDP2": lambda: sharded(adapted()),
}


def share(rows: list[Row], parts: int, rank: int | None) -> list[Row]:
    """This process's share of each of the batches that the rows are cut into; rank 0 has more. None: all rows."""
    if rank is None:
        return rows
    cut = [rows[len(rows) * k // parts : len(rows) * (k + 1) // parts] for k in range(parts)]
    fewer = len(rows) // parts // 3 or 1
    return [row for part in cut for row in (part[:-fewer] if rank == 0 else part[-fewer:])]


def gradient(build: Callable[[], nn.Module], defense: Defense, rank: int | None = None):
    """Loss, metrics and whole gradient of a later step of the method; the weights at its start were others."""
    model, reads = build(), defense.reads()
    start = {START + name: 1.1 * whole(param) for name, param in model.named_parameters() if param.requires_grad}
    roles = {role: batch_of(share(rows, reads.get(role, 1), rank)) for role, rows in many(reads).items()}
    step = bs.defense_gradient(model, defense, **roles, step=2, tensors=start, micro_batch_size=3)
    return step.loss, step.metrics, {name: whole(part) for name, part in step.gradient.items()}


def many(reads) -> dict[str, list[Row]]:
    """Rows of each role: eight, or two for each batch of several."""
    return {
        role: rows
        if reads.get(role, 1) == 1
        else [row for k in range(reads[role]) for row in other_answers(2, seed=9 + k)]
        for role, rows in ROLES.items()
    }


def finished(build: Callable[[], nn.Module], defense) -> dict[str, torch.Tensor]:
    """The weights after the stage that follows the alignment."""
    model = build()
    start = {START + name: 1.1 * whole(param) for name, param in model.named_parameters() if param.requires_grad}
    defense.finish(Oracle(model, tensors=start))
    return {name: whole(param).clone() for name, param in model.named_parameters()}


def works_on(kind: str, name: str) -> bool:
    """Is this setting tried there? Compositions and variants on all weights only, to save time.

    A share of the rows is of each process's own, so one process reads others: there is nothing to compare with.
    """
    if name == "booster, half the rows":
        return False
    return name in bs.DEFENSES if kind.startswith("LoRA") else not (kind == "full, FSDP2" and name == "booster, exact")


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        found = {
            (kind, name): gradient(build, defense, rank)
            for kind, build in MODELS.items()
            for name, defense in SETTINGS.items()
            if works_on(kind, name)
        }
        ends = {
            (kind, name): finished(build, defense)
            for kind, build in MODELS.items()
            for name, defense in FINISHING.items()
        }
        torch.save((found, ends, kept_whole(rank), unlabelled(rank)), f"{folder}/{rank}.pt")
        with pytest.raises(ValueError, match="the exact order needs whole parameters"):
            gradient(MODELS["full, FSDP2"], SETTINGS["booster, exact"], rank)
        assert reductions(full(), rank) == len(list(full().parameters()))
        assert reductions(sharded(full()), rank) == 3  # of the two layers and of what is around them
        broken = tiny_gpt2()
        if rank == 0:
            with torch.no_grad():
                broken.transformer.wpe.weight.fill_(float("nan"))
        with pytest.raises(NonFiniteError):  # in both, or the other would wait for ever
            bs.defense_gradient(broken, bs.SFT(), align=batch_of(ROLES["align"]))
    finally:
        dist.destroy_process_group()


def kept_whole(rank: int | None) -> dict[str, float]:
    """Booster's metrics where parameters stay whole after a pass, and would not notice that their parts are moved."""
    model = full() if rank is None else sharded(full())
    if rank is not None:
        model.set_reshard_after_backward(False)  # type: ignore[operator]
        model.set_reshard_after_forward(False)  # type: ignore[operator]
    roles = {role: batch_of(share(rows, 1, rank)) for role, rows in ROLES.items()}
    return bs.defense_gradient(model, bs.Booster(lam=5, alpha=0.3), **roles).metrics


def unlabelled(rank: int | None):
    """A step in which one process's harmful rows have no label; its share of the sum is nothing."""
    align, harmful = random_rows(seed=1), random_rows(seed=2)
    if rank is not None:
        align = align[:5] if rank == 0 else align[5:]
        harmful = harmful if rank == 0 else [(tokens, [-100] * len(tokens)) for tokens, _ in harmful[:2]]
    step = bs.defense_gradient(
        full() if rank is None else sharded(full()),
        bs.Booster(lam=5, alpha=0.3),
        align=batch_of(align),
        harmful=batch_of(harmful),
        micro_batch_size=2,
    )
    return step.loss, step.metrics, {name: whole(part) for name, part in step.gradient.items()}


def reductions(model: nn.Module, rank: int) -> int:
    """How many tensors (of sharded layers: groups) are reduced for one gradient of several micro-batches."""
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((dist, "all_reduce"), (_fully_shard._fsdp_param_group, "foreach_reduce")):
            original = getattr(module, name)

            def counting(*args, original=original, **kwargs):
                counted.append(args[0])
                return original(*args, **kwargs)

            patch.setattr(module, name, counting)
        rows = Rows.of(batch_of(share(ROLES["align"], 1, rank)))
        Oracle(model, micro_batch_size=2).gradient(rows)
    numbers = [one for one in counted if isinstance(one, torch.Tensor) and one.numel() == 1]
    return len(counted) - len(numbers)


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path):
    pair = multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2, join=False)  # type: ignore[attr-defined]
    single = {"full, DDP": full, "full, FSDP2": full, "LoRA, DDP": adapted, "LoRA, FSDP2": adapted}
    alone = {
        (build, name): gradient(build, defense)
        for kind, build in (("full, DDP", full), ("LoRA, FSDP2", adapted))
        for name, defense in SETTINGS.items()
        if works_on(kind, name)
    }
    ended = {
        (build, name): finished(build, defense) for build in (full, adapted) for name, defense in FINISHING.items()
    }
    while not pair.join():
        pass
    for rank in (0, 1):
        found, ends, metrics, lacking = torch.load(tmp_path / f"{rank}.pt")
        assert {name for _, name in found} == SETTINGS.keys() - {"booster, half the rows"}
        for adapted_kind in ("LoRA, DDP", "LoRA, FSDP2"):
            assert {name for kind, name in found if kind == adapted_kind} == bs.DEFENSES.keys()
        for (kind, name), step in found.items():
            assert_same(step, alone[single[kind], name], f"{name}, {kind}, process {rank}")
        for (kind, name), weights in ends.items():
            expected = ended[single[kind], name]
            assert relative_difference(list(weights.values()), list(expected.values())) < 1e-10, (kind, name)
        assert metrics == pytest.approx(kept_whole(None), rel=1e-10)
        assert metrics["harmful_loss_reduction"] > 0.1
        assert_same(lacking, unlabelled(None), "rows without labels")


def assert_same(actual, expected, what: str) -> None:
    loss, metrics, gradient = expected
    assert actual[2].keys() == gradient.keys(), what
    assert any(part.any() for part in gradient.values()), what
    assert relative_difference(list(actual[2].values()), list(gradient.values())) < 1e-9, what
    assert actual[0] == pytest.approx(loss, rel=1e-9), what
    assert actual[1] == pytest.approx(metrics, rel=1e-9, abs=1e-12), what
