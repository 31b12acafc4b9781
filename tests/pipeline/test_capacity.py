"""The capacity plan: its formulae against real steps, what does not fit, and the command."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

import boostershot as bs
from boostershot.cli import call
from boostershot.config import load_recipe
from boostershot.defenses import DEFENSES
from boostershot.pipeline import capacity
from boostershot.pipeline.capacity import DOUBLE_BACKWARD, KEPT, Planned, Setting, Stage, plan, stages
from boostershot.pipeline.devices import GIB, TABLE, device
from boostershot.pipeline.footprint import Footprint, LiveBytes, read_config
from boostershot.training.arguments import attach_lora
from tiny import tiny_llama

LORA = {"rank": 4, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}
SEVEN = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
    vocab_size=32000,
)  # fmt: skip
ROWS, LENGTH = 3, 20


def stage(config, lora, defense) -> Stage:
    """An alignment step of ROWS rows."""
    tokens = defense.passes * ROWS * LENGTH
    shape = (Footprint(config, lora), ROWS, LENGTH, tokens, defense.passes)
    return Stage("immunise", 1, *shape, defense.cost, capacity.STATE["adamw"], True, True)


def real_peak(lora, defense, checkpointing) -> int:
    """Bytes of all tensors at the peak of two real steps, the model's own included."""
    ids = torch.arange(2 * ROWS * LENGTH).view(2, ROWS, LENGTH) % 128
    batches = [{"input_ids": each, "attention_mask": torch.ones_like(each), "labels": each.clone()} for each in ids]
    bs.defense_gradient(tiny_llama(), bs.SFT(), align=batches[0])  # what is made once
    with LiveBytes() as spy:
        model = tiny_llama() if lora is None else attach_lora(tiny_llama(), lora)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        params = {name: param for name, param in model.named_parameters() if param.requires_grad}
        optimizer = torch.optim.AdamW(params.values(), 1e-3, fused=True)
        for _ in range(2):
            found = bs.defense_gradient(model, defense, align=batches[0], harmful=batches[1])
            for name in params:
                params[name].grad = found.gradient.pop(name)
            optimizer.step()
            optimizer.zero_grad()
    return spy.peak()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("defense", [bs.SFT(), bs.Booster(lam=5, alpha=0.1)], ids=["sft", "booster"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_planned_memory_is_that_of_a_real_step(lora, defense, checkpointing):
    memory = stage(tiny_llama().config, lora, defense).memory(Setting(checkpointing=checkpointing))
    assert memory.total - memory.base == pytest.approx(real_peak(lora, defense, checkpointing), rel=0.1)


def test_weights_are_counted_without_any():
    counted = Footprint(SEVEN, {**LORA, "rank": 32, "targets": ["q_proj", "k_proj", "v_proj"]}).weights()
    assert counted.frozen == 6_738_415_616  # Llama-2-7B's own number
    assert counted.trainable == 25_165_824  # 32 layers x 3 x 2 x 32 x 4096
    assert counted.products == counted.all - 32000 * 4096 - (2 * 32 + 1) * 4096  # less the embeddings and the norms
    tied = tiny_llama().config
    tied.tie_word_embeddings = True
    loose = tiny_llama().config
    assert Footprint(loose, None).weights().all - Footprint(tied, None).weights().all == 128 * 32
    assert Footprint(loose, None).weights().products == Footprint(tied, None).weights().products


def test_layouts_divide_what_they_share():
    of = stage(SEVEN, None, bs.Booster(lam=5, alpha=0.1))
    one, ddp, fsdp = (
        of.memory(Setting(layout, count)) for layout, count in (("one device", 1), ("DDP", 3), ("FSDP2", 3))
    )
    assert (one.weights, one.gradients, one.optimizer) == (ddp.weights, ddp.gradients, ddp.optimizer)
    assert one.optimizer == 2 * one.gradients == 2 * one.weights == one.defense
    for part in ("weights", "gradients", "optimizer", "defense", "base"):
        assert getattr(fsdp, part) == pytest.approx(getattr(one, part) / 3)
    assert one.gathered == ddp.gathered == 0 < fsdp.gathered
    assert ddp.activations == fsdp.activations < one.activations


def test_a_remedy_makes_it_fit_and_is_the_least():
    of = stage(SEVEN, None, bs.SFT())
    large = Planned(of, Setting(), device("h100-80g"))
    assert not large.fits
    assert large.remedy().startswith("FSDP2 over ")
    count = int(large.remedy().split()[2])
    assert replace(large, setting=Setting("FSDP2", count)).fits
    assert not replace(large, setting=Setting("FSDP2", count // 2)).fits

    long = replace(stage(SEVEN, LORA, bs.SFT()), length=256, rows=10)
    tight = Planned(long, Setting(), replace(device("h100-80g"), memory=58 * GIB))
    assert not tight.fits and tight.remedy() == "micro-batches of one row"
    assert replace(tight, setting=Setting(micro_batch=1)).fits
    assert replace(tight, stage=replace(long, splits=False)).remedy() == "activation checkpointing"
    nowhere = replace(tight, device=replace(tight.device, memory=GIB))
    assert nowhere.remedy().startswith("nothing here")


def test_time_follows_passes_weights_and_devices():
    known = device("h100-80g")
    sft, booster = stage(SEVEN, LORA, bs.SFT()), stage(SEVEN, LORA, bs.Booster(lam=5, alpha=0.1))
    assert booster.seconds(known, Setting()) == pytest.approx(3 * sft.seconds(known, Setting()))
    full = stage(SEVEN, None, bs.SFT()).seconds(known, Setting())
    assert full == pytest.approx(1.5 * sft.seconds(known, Setting()), rel=0.02)  # 6 to 4 multiplications a weight
    again = sft.seconds(known, Setting(checkpointing=True))
    assert again == pytest.approx(1.5 * sft.seconds(known, Setting()), rel=0.02)
    assert sft.seconds(known, Setting("DDP", 2)) == pytest.approx(sft.seconds(known, Setting()) / 2)
    assert sft.seconds(known, Setting(precision="bfloat16")) < sft.seconds(known, Setting()) / 10
    slow = replace(known, link=1.0)  # a byte a second: the devices wait for each other
    assert sft.seconds(slow, Setting("DDP", 2)) > 100 * sft.seconds(slow, Setting())


def test_every_kept_activation_that_a_defence_declares_is_counted():
    from every_defense import SETTINGS  # of every defence

    assert {type(one) for one in SETTINGS.values()} == set(DEFENSES.values())
    words = {part for one in SETTINGS.values() for part in one.cost.activations.split("; ") if part}
    assert words and words <= {*KEPT, DOUBLE_BACKWARD}


def test_each_stage_of_a_recipe_is_a_line_and_what_two_labels_share_is_one():
    told = {one.what: one for one in stages(load_recipe("paper-sst2"), tiny_llama().config)}
    assert [name for name in told if name.startswith("immunise")] == [
        "immunise: sft", "immunise: vaccine", "immunise: repnoise", "immunise: booster"
    ]  # fmt: skip
    fresh, own = told["attack: paper and strict/fresh"], told["attack: paper and strict/continue"]
    assert (fresh.times, own.times, told["evaluate"].times) == (4, 4, 1 + 4 + 8)
    assert told["immunise: booster"].passes == 3 * told["immunise: sft"].passes == 3 * 10_000


def test_every_device_has_a_source_and_this_machine_is_measured():
    import yaml

    table = yaml.safe_load(TABLE.read_text())
    assert {"h100-80g", "h200-141g", "a100-80g", "a100-40g", "l40s-48g", "rtx4090-24g", "cpu"} <= set(table)
    assert all(device(name).source and device(name).float32 > 0 and device(name).memory > GIB for name in table)


@pytest.fixture
def recipe_of_a_bare_config(tmp_path):
    tiny_llama().config.save_pretrained(tmp_path / "bare")  # config.json and nothing else
    return ["quickstart", "--set", f"model.id={tmp_path / 'bare'}"]


def test_the_command_needs_the_config_alone(recipe_of_a_bare_config, capsys):
    assert call(["plan", *recipe_of_a_bare_config, "--device", "a100-40g", "--count", "2"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith(("one device", "DDP", "FSDP2"))] == [
        "one device", "DDP over 2 devices", "FSDP2 over 2 devices"
    ]  # fmt: skip
    assert out.count("immunise: booster") == 3 and "does not fit" not in out
    assert call(["plan", *recipe_of_a_bare_config, "--device", "a100-40g", "--json", "--bf16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in found][:2] == ["immunise: sft", "immunise: booster"]
    assert all(row["fits"] and row["seconds"] > 0 for row in found)


def test_without_flags_the_plan_is_of_what_the_recipe_says(recipe_of_a_bare_config, capsys):
    said = ["immunize.bf16=true", "runtime.checkpointing=true"]
    recipe = load_recipe("quickstart", [recipe_of_a_bare_config[2], *said])

    def planned(**flags):
        config = read_config(recipe.model.id)
        return {one.stage.what: one.setting for one in plan(recipe, config, device("a100-40g"), **flags)}

    asis = planned()
    aligned = {what for what in asis if what.startswith("immunise")}
    assert {what for what, setting in asis.items() if setting.precision == "bfloat16"} == aligned
    assert all(setting.checkpointing == (what != "evaluate") for what, setting in asis.items())
    assert all(setting.base == "float32" for setting in asis.values())
    assert {setting.precision for setting in planned(bf16=True).values()} == {"bfloat16"}
    assert not any(setting.checkpointing for setting in planned(checkpointing=False).values())
    told = [part for setting in said for part in ("--set", setting)]
    assert call(["plan", *recipe_of_a_bare_config, *told]) == 0
    out = capsys.readouterr().out
    assert "arithmetic in bfloat16 or float32" in out and out.count("\none device\n") == 1
    assert call(["plan", *recipe_of_a_bare_config, *told, "--no-bf16"]) == 0
    assert "arithmetic in float32;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quickstart", "--device", "h100"], "--device h100: no such device; "),
        (["quickstart", "--set", "model.id=/nowhere"], "has no readable config.json"),
    ],
)
def test_what_cannot_be_planned_is_told_in_a_line(arguments, said, capsys):
    assert call(["plan", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
