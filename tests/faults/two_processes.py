"""Run by torchrun: immunise a tiny model in two processes, of which the second may kill itself in the third step."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

import boostershot as bs
from tiny import preference_rows, tiny_llama, tiny_tokenizer


class Dies(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3 and args.process_index == 1:
            (Path(args.output_dir) / "died").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, dies = Path(sys.argv[1]), sys.argv[2] == "dies"
    tokenizer = tiny_tokenizer(chat=True)
    args = bs.ImmunizeArguments(
        output_dir=str(folder),
        max_steps=5,
        save_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        use_cpu=True,
        ddp_backend="gloo",
        disable_tqdm=True,
        lora={"rank": 2, "dropout": 0.1},
    )

    def stopped(*_):
        (folder / "stopped").write_text(str(time.time()))
        sys.exit(1)

    signal.signal(signal.SIGTERM, stopped)  # how torchrun stops the processes that are left
    try:
        model = bs.immunize(
            tiny_llama(vocab=len(tokenizer), std=0.2),
            tokenizer,
            preference_rows(12),
            bs.Booster(lam=2.0, alpha=0.1),
            args,
            callbacks=[Dies()] if dies else [],
        )
    except RuntimeError as error:  # what gloo raises where a peer is gone
        print(f"process {args.process_index} stops: {error}", file=sys.stderr, flush=True)
        stopped()
    if args.process_index == 0:
        torch.save(model.state_dict(), folder / "weights.pt")
