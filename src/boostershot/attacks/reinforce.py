"""The user fine-tuning stage by reinforcement: `trl.GRPOTrainer` on prompts without answers, any function as reward."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_utils import set_seed
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from boostershot.attacks.arguments import AttackerArguments
from boostershot.attacks.attack import AttackRow
from boostershot.attacks.finetune import Record, adapted, own_forward
from boostershot.attacks.grpo import Reinforced
from boostershot.attacks.optimizers import optimizer_of
from boostershot.attacks.refactor import refactor
from boostershot.data.format import Format
from boostershot.training.checkpoints import MarkWhole, begin, last_whole_checkpoint, training_facts

Reward = Callable[[Sequence[AttackRow], Sequence[str]], Sequence[float | None]]
"""The reward of each answer to its row's prompt; None where there is none: such an answer moves nothing."""


@dataclass
class ReinforceArguments(AttackerArguments, GRPOConfig):
    """`trl.GRPOConfig` with what `AttackerArguments` add and replace.

    `per_device_train_batch_size` is the number of answers of one optimiser step, `max_steps` must be given. The number
    of answers to a prompt, their length and their temperature are the attack's.

    Raises:
        ValueError: `torch_compile` is asked for; it is not tried on a model that generates between its steps.
    """

    def __post_init__(self) -> None:
        self.num_generations = self.per_device_train_batch_size  # until the attack says its own
        super().__post_init__()
        if self.torch_compile:
            raise ValueError("torch_compile is not for reinforcement; leave it out")


def reinforce(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Iterable[Mapping[str, Any]],
    attack: Reinforced,
    reward: Reward,
    args: ReinforceArguments,
    *,
    template: str = "auto",
    record: Callable[[int, Any], None] = lambda step, model: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """Fine-tune an immunised model on what earns a reward, and return it.

    Each step draws `attack.group` answers to each of batch / group prompts from the model as it is then, and takes one
    step of GRPO (arXiv:2402.03300, without a KL term, the loss a mean over the answers' tokens as in DAPO,
    arXiv:2503.14476). An answer's advantage is its reward less its group's mean, over the group's standard deviation:
    a group of equal rewards teaches nothing, and where all groups are so, momentum and weight decay alone move weights.

    Training goes on from the last whole checkpoint in `args.output_dir`, to the same weights bit for bit.

    Args:
        model, tokenizer, template, record: as for `attack`.
        dataset: as for `attack`; of its rows, completions are not read.
        attack: which prompts, and how they are answered.
        reward: of answers, in any unit.
        args: the attacker's learning rate, answers a step, and steps.

    Raises:
        InputError: there are too few rows.
        ValueError: there is no number of steps, or the batch is no multiple of the group.
        FloatingPointError: the loss is not finite.
    """
    attack.check_training(args.per_device_train_batch_size, args.max_steps if args.max_steps > 0 else None)
    set_seed(args.seed)
    form = Format.choose(tokenizer, template)
    pool = [AttackRow(str(row["id"]), row["prompt"], row["completion"], bool(row["harmful"])) for row in dataset]
    rows = attack.phases(pool, args.seed)[0].rows
    args.num_generations = attack.group
    args.max_completion_length = attack.answer_tokens
    args.temperature = attack.temperature
    args.shuffle_dataset = False  # the order is ours, so that a resumed run meets the same prompts
    order = in_order(len(rows), args.max_steps * args.per_device_train_batch_size // attack.group, args.seed)

    def rewarded(completions: list[str], row: list[int], log_metric: Any, **kwargs: Any) -> list[float | None]:
        found = list(reward([rows[i] for i in row], [text.strip() for text in completions]))
        log_metric("reward_unknown", sum(value is None for value in found) / len(found))
        return found

    model = adapted(model, args.adapter, args.lora).to(args.device)
    refactored = refactor(model, args.refactor)
    recorded = Record({step: step for step in args.record_steps}, refactored.telling(record))
    how = (attack, args.adapter, args.refactor, args.optimizer, args.momentum)
    facts = training_facts(how, [[rows[i].prompt, rows[i].completion] for i in order], model, args)
    with own_forward(model), _no_answers_in_the_log():
        trainer = PromptGRPOTrainer(
            form,
            model=model,
            reward_funcs=rewarded,
            args=args,
            train_dataset=Dataset.from_list([{"prompt": rows[i].prompt, "row": i} for i in order]),
            processing_class=tokenizer,
            callbacks=[recorded, *callbacks, MarkWhole(facts)],
        )
        if args.disable_tqdm:
            trainer.remove_callback(PrinterCallback)  # the stock trainer prints every log where it shows no bar
        checkpoint = last_whole_checkpoint(Path(str(args.output_dir)), facts)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    refactored.undo()
    return trainer.accelerator.unwrap_model(trainer.model)


def in_order(rows: int, wanted: int, seed: int) -> list[int]:
    """So many row numbers: one pass over all rows after another, each in an order of its own."""
    draw = random.Random(f"reinforce/{seed}")
    order: list[int] = []
    while len(order) < wanted:
        order += draw.sample(range(rows), rows)
    return order[:wanted]


class PromptGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that asks as all else here does: the format has a prompt's tokens and what ends an answer."""

    def __init__(self, form: Format, **kwargs: Any):
        super().__init__(**kwargs)
        self.optimizer_cls_and_kwargs = optimizer_of(kwargs["args"])  # which trl's constructor does not pass on
        self.form = form
        self.eos_token_ids = sorted(form.ends())
        self.generation_config.eos_token_id = self.eos_token_ids
        self.generation_kwargs["eos_token_id"] = self.eos_token_ids

    def _send_telemetry(self) -> None:
        """Nothing: see `TrieSFTTrainer`."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The stock trainer would add the tokenizer's own special tokens to a chat that has them."""
        return [self.form.prompt_ids(prompt) for prompt in prompts], None, {}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Begun as ours; MarkWhole's mark comes after."""
        begin(self.args, self.state)
        super()._save_checkpoint(model, trial)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The stock loss, which must be finite."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the attack's loss is {loss.item()} at step {self.state.global_step}")
        return loss


@contextmanager
def _no_answers_in_the_log() -> Iterator[None]:
    """The stock trainer logs prompt and answer where a reward is unknown; we count those."""
    log = logging.getLogger("trl.trainer.grpo_trainer")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
