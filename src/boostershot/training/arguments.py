"""What a user sets for training: stock TrainingArguments plus the two knobs that a defence needs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import TrainingArguments
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import is_torch_xla_available

from boostershot.core.blocks import decoder_layers
from boostershot.errors import InputError


@dataclass
class ImmunizeArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the size of a forward pass and `lora`; its defaults are a defence's.

    A process trains on one device, whatever others it sees; several are for a launcher's processes.

    Args:
        micro_batch_size: rows in one forward pass, the memory knob; None takes the whole batch. The gradient does
            not depend on it, so `gradient_accumulation_steps` stays 1.
        tokens_per_micro_batch: tokens that a forward pass reads at most, unless one row alone has more; a prefix that
            rows share counts once.
        padded_rows: lay rows side by side in every pass, and never as a trie of their prefixes.
        lora: `dict(rank, alpha, dropout, targets)` of a fresh adapter, or None to train the model as it is.
        cached_layers: how many of the lowest decoder layers get no adapter; what they give for each row is computed
            once and read from `output_dir` until the training ends. The gradient is that of the same adapter without
            a cache.

    Raises:
        ValueError: a setting under which a defence would not be what it says, also where accelerate's launcher makes
            it: gradient accumulation, fp16 loss scaling, DeepSpeed, the first FSDP, a TPU, mixed precision without
            `bf16`; or cached layers without an adapter or in several processes.
    """

    output_dir: str = field(default="immunized")  # pyright: ignore[reportIncompatibleVariableOverride]
    learning_rate: float = field(default=5e-4)
    lr_scheduler_type: str = field(default="constant")  # type: ignore[assignment]
    weight_decay: float = field(default=0.1)
    logging_steps: float = field(default=1)
    report_to: str = field(default="none")  # type: ignore[assignment]
    remove_unused_columns: bool = field(default=False)
    micro_batch_size: int | None = field(default=None)
    tokens_per_micro_batch: int | None = field(default=None)
    padded_rows: bool = field(default=False)
    lora: dict[str, Any] | None = field(default_factory=lambda: dict(DEFAULT_LORA))
    cached_layers: int = field(default=0)

    def __post_init__(self) -> None:
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient_accumulation_steps must stay 1: the harmful gradient is normalised over the whole batch; "
                "raise the batch and set micro_batch_size instead"
            )
        _refuse_launched()
        if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no" and not self.bf16:
            raise InputError(_PRECISION)
        if self.fp16:
            raise ValueError(_FP16)
        if self.deepspeed:
            raise ValueError(_DEEPSPEED)
        if self.fsdp:
            raise ValueError("fsdp is not set here; start with accelerate launch and a config of fsdp_version: 2")
        for name in ("micro_batch_size", "tokens_per_micro_batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        if self.cached_layers < 0:
            raise ValueError(f"cached_layers is {self.cached_layers}; expected 0 or more")
        if self.cached_layers and self.lora is None:
            raise ValueError("cached_layers is given and lora is None; expected an adapter on the layers above")
        super().__post_init__()  # last: it fails in its own words where DeepSpeed is asked for and not installed
        on_one_device(self)
        checkpointing = self.gradient_checkpointing_kwargs
        if self.cached_layers and isinstance(checkpointing, dict) and checkpointing.get("use_reentrant"):
            # It sees no gradient where the first layer's input has none, and says nothing.
            raise ValueError("cached_layers is given and use_reentrant is true; expected use_reentrant: false")
        if self.cached_layers and self.world_size > 1:
            raise ValueError(f"cached_layers works in one process; there are {self.world_size}")


def on_one_device(args: TrainingArguments) -> None:
    """Let a process that sees several GPUs train on its first, as the stock class has no setting for it.

    Otherwise `nn.DataParallel` would hold the model, on whose copies neither our steps nor TRL's work.
    """
    args._n_gpu = min(args.n_gpu, 1)  # which transformers' own Trainer sets for a model that is spread over GPUs


_PRECISION = (
    "the launcher sets mixed_precision (ACCELERATE_MIXED_PRECISION) and bf16 is false; expected immunize.bf16: true in "
    "a recipe (in Python bf16=True), or mixed_precision: 'no' in the launcher's configuration"
)
_FP16 = "fp16 scales the loss, which a normalised step cannot bear; use bf16"
_DEEPSPEED = "DeepSpeed is not supported: it keeps gradients to itself; use DistributedDataParallel or FSDP2"


def _refuse_launched() -> None:
    """Refuse what accelerate's launcher says through the environment, and a machine without PyTorch's own devices."""
    if is_torch_xla_available():
        raise ValueError("TPUs (torch_xla) are not supported; use GPUs or a CPU")
    if os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp16":
        raise ValueError(_FP16)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError(_DEEPSPEED)
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if fsdp and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError("FSDP1 is not supported: its flat parameters hide the weights; set fsdp_version: 2")


DEFAULT_LORA: dict[str, Any] = {"rank": 16, "alpha": 16, "dropout": 0.0, "targets": "all-linear"}


def attach_lora(model: PreTrainedModel, lora: dict[str, Any]) -> PeftModel:
    """A fresh LoRA adapter on every module that `targets` names, in float32.

    Args:
        model: the base model; its weights are frozen.
        lora: `rank`, `alpha` (the adapter's scale is alpha / rank), `dropout`, `targets` ("all-linear" or names),
            `first_layer` (the lowest decoder layer that gets one; 0 if not given).

    Raises:
        InputError: the model has no such decoder layer.
    """
    values, first = {**DEFAULT_LORA, **lora}, lora.get("first_layer", 0)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=values["rank"],
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=values["targets"],
        exclude_modules=_within_layers_below(model, first) if first else None,
    )
    return get_peft_model(model, config)  # type: ignore[return-value]


def _within_layers_below(model: PreTrainedModel, first: int) -> str:
    """A pattern of the names of all modules within the decoder layers below this one."""
    layers = decoder_layers(model)
    if first >= len(layers):
        raise InputError(f"cached_layers is {first}; expected fewer than this model's {len(layers)} layers")
    below = {id(layer) for layer in layers[:first]}
    names = [re.escape(name) for name, module in model.named_modules() if id(module) in below]
    return rf"({'|'.join(names)})\..*"
