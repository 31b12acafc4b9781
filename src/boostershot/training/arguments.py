"""What a user sets for training: stock TrainingArguments plus the two knobs that a defence needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import TrainingArguments
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import is_torch_xla_available


@dataclass
class ImmunizeArguments(TrainingArguments):
    """`transformers.TrainingArguments` with `micro_batch_size` and `lora`; its defaults are a defence's.

    Args:
        micro_batch_size: rows in one forward pass, the memory knob; None takes the whole batch. The gradient does
            not depend on it, so `gradient_accumulation_steps` stays 1.
        lora: `dict(rank, alpha, dropout, targets)` of a fresh adapter, or None to train the model as it is.

    Raises:
        ValueError: a setting under which a defence would not be what it says, also where accelerate's launcher makes
            it: gradient accumulation, fp16 loss scaling, DeepSpeed, the first FSDP, a TPU, several GPUs in one process.
    """

    output_dir: str = field(default="immunized")  # pyright: ignore[reportIncompatibleVariableOverride]
    learning_rate: float = field(default=5e-4)
    lr_scheduler_type: str = field(default="constant")  # type: ignore[assignment]
    weight_decay: float = field(default=0.1)
    logging_steps: float = field(default=1)
    report_to: str = field(default="none")  # type: ignore[assignment]
    remove_unused_columns: bool = field(default=False)
    micro_batch_size: int | None = field(default=None)
    lora: dict[str, Any] | None = field(default_factory=lambda: dict(DEFAULT_LORA))

    def __post_init__(self) -> None:
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                "gradient_accumulation_steps must stay 1: the harmful gradient is normalised over the whole batch; "
                "raise the batch and set micro_batch_size instead"
            )
        _refuse_launched()
        if self.fp16:
            raise ValueError(_FP16)
        if self.deepspeed:
            raise ValueError(_DEEPSPEED)
        if self.fsdp:
            raise ValueError("fsdp is not set here; start with accelerate launch and a config of fsdp_version: 2")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size is {self.micro_batch_size}; expected 1 or more")
        super().__post_init__()  # last: it fails in its own words where DeepSpeed is asked for and not installed


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
        lora: `rank`, `alpha` (the adapter's scale is alpha / rank), `dropout`, `targets` ("all-linear" or names).
    """
    values = {**DEFAULT_LORA, **lora}
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=values["rank"],
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=values["targets"],
    )
    return get_peft_model(model, config)  # type: ignore[return-value]
