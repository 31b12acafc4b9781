"""Settings under which a defence would not be what it says are refused, and the defaults are a defence's."""

import copy

import pytest
import torch
from transformers import TrainingArguments

from boostershot import AttackArguments, ImmunizeArguments
from boostershot.attacks.reinforce import ReinforceArguments
from boostershot.training import arguments


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps must stay 1"),
        ({"fp16": True}, "fp16 scales the loss"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "DeepSpeed is not supported"),
        ({"fsdp": "full_shard"}, "start with accelerate launch and a config of fsdp_version: 2"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0; expected 1 or more"),
        ({"tokens_per_micro_batch": 0}, "tokens_per_micro_batch is 0; expected 1 or more"),
        ({"micro_batch_size": -3}, "micro_batch_size is -3; expected 1 or more"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refused(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        ImmunizeArguments(output_dir=str(tmp_path), **setting)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "fp16 scales the loss"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "launcher sets mixed_precision .*expected immunize.bf16: true"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP1 is not supported.*set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP1 is not supported.*set fsdp_version: 2"),
    ],
    ids=["fp16", "bf16", "deepspeed", "fsdp", "fsdp 1"],
)
def test_so_is_what_a_launcher_asks_for(tmp_path, monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        ImmunizeArguments(output_dir=str(tmp_path))


def test_bf16_is_what_the_arguments_say(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert ImmunizeArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True).mixed_precision == "bf16"
    for kind in (AttackArguments, ReinforceArguments):
        args = kind(output_dir=str(tmp_path), per_device_train_batch_size=2, use_cpu=True)
        assert args.mixed_precision == "no"


@pytest.mark.parametrize("kind", [ImmunizeArguments, AttackArguments, ReinforceArguments])
def test_a_process_that_sees_several_gpus_trains_on_one(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainingArguments(output_dir=str(tmp_path)).n_gpu == 2  # the stock class, which takes both
    args = kind(output_dir=str(tmp_path), per_device_train_batch_size=2)
    assert args.n_gpu == 1 and args.train_batch_size == 2
    assert copy.copy(args).n_gpu == 1  # as a phase of an attack has them


def test_and_a_tpu(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "is_torch_xla_available", lambda: True)
    with pytest.raises(ValueError, match=r"TPUs .* are not supported"):
        ImmunizeArguments(output_dir=str(tmp_path))


def test_defaults(tmp_path):
    args = ImmunizeArguments(output_dir=str(tmp_path))
    assert args.gradient_accumulation_steps == 1 and args.micro_batch_size is None
    assert args.lora == {"rank": 16, "alpha": 16, "dropout": 0.0, "targets": "all-linear"}
    assert args.report_to == [] and not args.bf16 and not args.fp16


def test_default_lora_is_not_shared_between_arguments(tmp_path):
    first = ImmunizeArguments(output_dir=str(tmp_path))
    assert first.lora is not None
    first.lora["rank"] = 1
    assert ImmunizeArguments(output_dir=str(tmp_path)).lora == {**first.lora, "rank": 16}
