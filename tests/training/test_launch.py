"""Two processes started as `accelerate launch` starts them train what one does, and go on where one stopped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launched import WAYS, train

from tiny import tiny_llama, tiny_tokenizer

HERE = Path(__file__).parent


def launch(root: Path) -> None:
    """All trainings of two processes."""
    paths = [str(HERE.parent), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(HERE / "launched.py"), str(root)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, weights in expected.items():
        # Adam divides by the root of tiny second moments: float32 noise of the gradients grows to about 1e-4.
        torch.testing.assert_close(actual[name], weights, rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*was written with processes")
def test_two_processes_train_what_one_does_and_checkpoints_go_from_either_to_the_other(tmp_path):
    alone = {}
    for way in WAYS:
        folder = tmp_path / way / "alone"
        alone[way] = train(folder, way, 1)
        assert (folder / "checkpoint-3").is_dir() and not (folder / "checkpoint-5").exists()
    launch(tmp_path)
    for way in WAYS:
        for begun in ("here", "alone"):
            assert_close(torch.load(tmp_path / way / begun / "weights.pt", weights_only=True), alone[way])
        shutil.rmtree(tmp_path / way / "alone")
        shutil.copytree(tmp_path / way / "here" / "checkpoint-3", tmp_path / way / "alone" / "checkpoint-3")
        assert_close(train(tmp_path / way / "alone", way, 1), alone[way])
    start = tiny_llama(vocab=len(tiny_tokenizer(chat=True)), std=0.2).state_dict()
    moved = max(float((weights - start[name]).abs().max()) for name, weights in alone["full, DDP"].items())
    assert moved > 2e-2  # ten times the tolerance, so that agreement means something
