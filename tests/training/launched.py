"""Run by torchrun: immunise a tiny model in as many processes as there are, and save its weights."""

import sys
from pathlib import Path

import torch

import boostershot as bs
from tiny import preference_rows, tiny_llama, tiny_tokenizer

if __name__ == "__main__":
    folder, batch = Path(sys.argv[1]), int(sys.argv[2])
    tokenizer = tiny_tokenizer(chat=True)
    args = bs.ImmunizeArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=batch,
        learning_rate=1e-2,
        use_cpu=True,
        ddp_backend="gloo",
        disable_tqdm=True,
        lora=None,
    )
    model = bs.immunize(
        tiny_llama(vocab=len(tokenizer), std=0.2),
        tokenizer,
        preference_rows(12),
        bs.Booster(lam=2.0, alpha=0.1),
        args,
    )
    if args.process_index == 0:
        torch.save(model.state_dict(), folder / "weights.pt")
