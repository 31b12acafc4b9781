"""The attacker's optimiser by its name in a recipe; each is a library's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import torch
from lion_pytorch import Lion
from transformers import Trainer
from transformers.optimization import Adafactor

from boostershot.attacks.attack import Optimizer

if TYPE_CHECKING:
    from boostershot.attacks.finetune import AttackArguments
    from boostershot.attacks.reinforce import ReinforceArguments


def check_optimizer(name: str) -> None:
    """Raises ValueError if there is none of that name."""
    if name not in get_args(Optimizer):
        raise ValueError(f"optimizer is {name!r}; expected adamw, sgd, adafactor or lion")


def optimizer_of(args: AttackArguments | ReinforceArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The class and its keywords, as `Trainer` takes them; `Trainer` adds the weight decay by parameter.

    adamw is the one that `Trainer` would take (`args.optim` and its betas). sgd has no momentum unless it is given
    one. adafactor steps at the attack's learning rate and not at one of its own (no relative steps, no scaling by the
    size of a weight), and keeps no first moment unless it is given a momentum. lion is `lion-pytorch` with the
    paper's betas: transformers knows Lion only through bitsandbytes, whose CPU version compiles code as it runs.

    `args.momentum` takes the place of the first beta of adamw, adafactor and lion.
    """
    rate, momentum = {"lr": args.learning_rate}, args.momentum
    if args.optimizer == "sgd":
        return torch.optim.SGD, {**rate, "momentum": momentum or 0.0}
    if args.optimizer == "adafactor":
        return Adafactor, {**rate, "beta1": momentum, "relative_step": False, "scale_parameter": False}
    if args.optimizer == "lion":
        return Lion, {**rate, "betas": (0.9 if momentum is None else momentum, 0.99)}
    kind, values = Trainer.get_optimizer_cls_and_kwargs(args)
    return kind, values if momentum is None else {**values, "betas": (momentum, args.adam_beta2)}
