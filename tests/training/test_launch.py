"""Two processes started as `accelerate launch` starts them train the weights that one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny import tiny_llama, tiny_tokenizer

HERE = Path(__file__).parent


def launch(folder: Path, processes: int, batch: int) -> dict[str, torch.Tensor]:
    """The weights after a training by so many processes of so many rows each."""
    folder.mkdir()
    paths = [str(HERE.parent), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *(str(HERE / "launched.py"), str(folder), str(batch)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    return torch.load(folder / "weights.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_train_the_same_weights_as_one(tmp_path):
    one, two = launch(tmp_path / "one", 1, 4), launch(tmp_path / "two", 2, 2)
    assert one.keys() == two.keys()
    for name, weights in one.items():
        # Adam divides by the root of tiny second moments: float32 noise of the gradients grows to about 1e-4.
        torch.testing.assert_close(two[name], weights, rtol=0, atol=2e-3)
    start = tiny_llama(vocab=len(tiny_tokenizer(chat=True)), std=0.2).state_dict()
    moved = max(float((one[name] - start[name]).abs().max()) for name in start)
    assert moved > 2e-2  # ten times the tolerance, so that agreement means something
