"""Two processes with a share of the rows each compute what one computes on all of them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import boostershot as bs
from batches import batch_of, random_rows, relative_difference
from boostershot.core.oracle import NonFiniteError
from tiny import tiny_gpt2

DEFENSE = bs.Booster(lam=5, alpha=0.3, reuse=2)
ALIGN, HARMFUL = random_rows(seed=1), random_rows(seed=2)
# Rank 1 has fewer rows, and of harmful ones none with a label: its share of the sum is nothing.
SHARES = [(ALIGN[:5], HARMFUL), (ALIGN[5:], [(tokens, [-100] * len(tokens)) for tokens, _ in HARMFUL[:2]])]


def measure(align, harmful, micro_batch_size=None):
    model = tiny_gpt2(dtype=torch.float64, std=0.2)
    rows = {"align": batch_of(align), "harmful": batch_of(harmful)}
    kept: dict = {"state": {}, "tensors": {}}
    step = bs.defense_gradient(model, DEFENSE, **rows, micro_batch_size=micro_batch_size, **kept)
    return step, kept["tensors"]


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        step, kept = measure(*SHARES[rank], micro_batch_size=2)
        torch.save((step.loss, step.metrics, step.gradient, kept), f"{folder}/{rank}.pt")
        broken = tiny_gpt2()
        if rank == 0:
            with torch.no_grad():
                broken.transformer.wpe.weight.fill_(float("nan"))
        with pytest.raises(NonFiniteError):  # in both, or the other would wait for ever
            bs.defense_gradient(broken, bs.SFT(), align=batch_of(ALIGN))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path):
    multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    whole, whole_kept = measure(ALIGN, HARMFUL)
    kept = [torch.load(tmp_path / f"{rank}.pt")[3] for rank in (0, 1)]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in whole_kept)  # each goes on with the same g
    assert relative_difference(list(kept[0].values()), list(whole_kept.values())) < 1e-10
    for rank in (0, 1):
        loss, metrics, gradient, _ = torch.load(tmp_path / f"{rank}.pt")
        assert gradient.keys() == whole.gradient.keys()
        assert relative_difference(list(gradient.values()), list(whole.gradient.values())) < 1e-10
        assert loss == pytest.approx(whole.loss, rel=1e-10)
        assert metrics == pytest.approx(whole.metrics, rel=1e-10)
