"""Run by torchrun: immunise a tiny model in as many processes as there are, in several ways, and save its weights."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

import boostershot as bs
from boostershot.training.whole import whole_weights
from tiny import preference_rows, tiny_llama, tiny_tokenizer

WHOLE = 4  # rows of a batch, of all processes together
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
WAYS = ("full, DDP", "full, FSDP2", "LoRA, FSDP2")


def train(folder: Path, way: str, processes: int) -> dict[str, torch.Tensor]:
    """The weights after five steps; from the checkpoint in the folder on, if there is one."""
    args = bs.ImmunizeArguments(
        output_dir=str(folder),
        max_steps=5,
        save_steps=3,
        per_device_train_batch_size=WHOLE // processes,
        learning_rate=1e-2,
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        disable_tqdm=True,
        lora={"rank": 4} if way.startswith("LoRA") else None,
    )
    tokenizer = tiny_tokenizer(chat=True)
    model = tiny_llama(vocab=len(tokenizer), std=0.2)
    defense = bs.Booster(lam=2.0, alpha=0.1)
    model = bs.immunize(model, tokenizer, preference_rows(12), defense, args)
    assert all(isinstance(param, DTensor) for param in model.parameters()) == ("ACCELERATE_USE_FSDP" in os.environ)
    return whole_weights(model)


@contextmanager
def sharding_on_a_cpu() -> Iterator[None]:
    """accelerate takes FSDP for GPUs only, and runs DDP on a CPU without a word; all else in it works there, too."""
    original = AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    os.environ.update(FSDP2)
    AcceleratorState._reset_state()
    AcceleratorState.__init__ = init
    try:
        yield
    finally:
        AcceleratorState.__init__ = original
        AcceleratorState._reset_state()
        for name in FSDP2:
            del os.environ[name]


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for way in WAYS:
        for begun in ("here", "alone"):  # a training of these processes, and one that one process began
            folder = root / way / begun
            if way.endswith("FSDP2"):
                with sharding_on_a_cpu():
                    weights = train(folder, way, 2)
            else:
                weights = train(folder, way, 2)
            if os.environ["RANK"] == "0":
                torch.save(weights, folder / "weights.pt")
