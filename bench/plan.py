"""Hold the plan's formulae against measurement, and its 7B figure against the paper's table; writes docs/plan.md.

    python bench/plan.py            measures every case in a process of its own (minutes), then writes the page
    python bench/plan.py write      writes the page from docs/plan.json
    python bench/plan.py one CASE   measures one case and prints it as JSON

A measured step is the engine's own (`defense_gradient`, AdamW) on random weights and random tokens: neither changes
what a step takes. Bytes are counted while their tensors live; the resident set is the kernel's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

import boostershot as bs
from boostershot.config import load_recipe
from boostershot.defenses.defense import Defense
from boostershot.pipeline.capacity import STATE, USABLE, Setting, Stage, stages
from boostershot.pipeline.capacity_text import duration
from boostershot.pipeline.devices import GIB, device
from boostershot.pipeline.footprint import Footprint, LiveBytes, emptied
from boostershot.training.arguments import attach_lora
from boostershot.training.cost import peak_memory, reset_peak_memory

DOCS = Path(__file__).parent.parent / "docs"
LORA = {"rank": 16, "alpha": 16, "dropout": 0.0, "targets": "all-linear"}
DEFENSES: dict[str, Defense] = {"sft": bs.SFT(), "vaccine": bs.Vaccine(rho=2), "booster": bs.Booster(lam=5, alpha=0.1)}
ROWS, LENGTH, MIB = 4, 64, 2**20
PUBLISHED = {"sft": (49.3, 0.54), "vaccine": (None, 1.06), "repnoise": (72.5, 2.69), "booster": (57.86, 1.86)}  # GB, h


def llama(
    width: int, inner: int, layers: int, heads: int, kept: int, vocabulary: int, tied: bool = True
) -> LlamaConfig:
    """A Llama of this shape."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kept,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


SIZES = {
    "10 million": llama(256, 688, 8, 4, 2, 8192),
    "37 million": llama(384, 1024, 16, 6, 3, 16384),
    "135 million": llama(576, 1536, 30, 9, 3, 49152),  # the built-in model's
}
LLAMA_7B = llama(4096, 11008, 32, 32, 32, 32000, tied=False)
LLAMA_70B = llama(8192, 28672, 80, 64, 8, 32000, tied=False)
CASES = {
    f"{size}, {how}, {name}": (size, how, name)
    for size in SIZES
    for how, names in (("LoRA", DEFENSES), ("LoRA checkpointed", ("sft",)), ("full", ("sft", "booster")))
    for name in names
}


def stage_of(config: PretrainedConfig, how: str, name: str) -> Stage:
    """The case as the plan sees it."""
    defense = DEFENSES[name]
    passes = defense.passes
    return Stage(
        *(name, 1, Footprint(config, None if how == "full" else LORA), ROWS, LENGTH, passes * ROWS * LENGTH, passes),
        *(defense.cost, STATE["adamw"], True, True),
    )


def measured(case: str) -> dict[str, Any]:
    """Peak bytes and the seconds of a step."""
    size, how, name = CASES[case]
    torch.manual_seed(0)
    ids = torch.randint(10, 8000, (4, ROWS, LENGTH))  # the first tokens differ: no prefix is shared
    batches = [{"input_ids": each, "attention_mask": torch.ones_like(each), "labels": each.clone()} for each in ids]

    def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
        found = bs.defense_gradient(model, DEFENSES[name], align=batches[0], harmful=batches[1])
        params = dict(model.named_parameters())
        for key, gradient in found.gradient.items():
            params[key].grad = gradient
        del gradient
        del found
        optimizer.step()
        optimizer.zero_grad()

    reset_peak_memory()
    before = resident()
    with LiveBytes() as spy:
        model: Any = AutoModelForCausalLM.from_config(SIZES[size])
        if how != "full":
            model = attach_lora(model, LORA)
        if how == "LoRA checkpointed":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        optimizer = torch.optim.AdamW([param for param in model.parameters() if param.requires_grad], 1e-4, fused=True)
        for _ in range(2):
            step(model, optimizer)
    grown = (peak_memory() or 0) - before
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        step(model, optimizer)
        seconds.append(time.perf_counter() - started)
    return {"bytes": spy.peak(), "resident": grown, "seconds": min(seconds)}


def resident() -> int:
    """Bytes that the process has in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def public_step(config: PretrainedConfig, lora: Mapping[str, Any], rows: int, length: int) -> float:
    """Bytes beyond weights of a step as public code takes it: padded rows, all logits, eager attention, bfloat16."""
    eager = type(config)(**{**config.to_dict(), "num_hidden_layers": 1})
    peaks = []
    for layers in (1, 2):
        eager.num_hidden_layers = layers
        with torch.device("meta"):
            model: Any = attach_lora(
                AutoModelForCausalLM.from_config(eager, dtype=torch.float32, attn_implementation="eager"), dict(lora)
            )
        with FakeTensorMode(allow_non_fake_inputs=True):
            emptied(model, torch.bfloat16)
            with LiveBytes() as spy, torch.autocast("cpu", torch.bfloat16):
                ids = torch.zeros(rows, length, dtype=torch.long)
                model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        peaks.append(spy.peak_without_survivors())
    return peaks[0] + (config.num_hidden_layers - 1) * (peaks[1] - peaks[0])


def write() -> None:
    """docs/plan.md."""
    found = json.loads((DOCS / "plan.json").read_text(encoding="utf-8"))
    text = (Path(__file__).with_name("plan.md.in")).read_text(encoding="utf-8")
    for mark, lines in {"MEASURED": _measured(found), "PUBLISHED": _published(), "LARGE": _large()}.items():
        text = text.replace(f"{{{mark}}}", "\n".join(lines))
    (DOCS / "plan.md").write_text(text, encoding="utf-8")


def _measured(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| model, training, defence | planned MiB | counted MiB | planned / counted | beyond SFT, in trainable weights | resident MiB | passes | time / SFT's |",  # noqa: E501
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in found:
        size, how, name = CASES[case]
        stage, setting = stage_of(SIZES[size], how, name), Setting(checkpointing=how == "LoRA checkpointed")
        memory = stage.memory(setting)
        planned, real = memory.total - memory.base, found[case]
        plain = found[f"{size}, {how}, sft"]
        beyond = (real["bytes"] - plain["bytes"]) / (4 * stage.footprint.weights().trainable)
        lines.append(
            f"| {case} | {planned / MIB:.0f} | {real['bytes'] / MIB:.0f} | {planned / real['bytes']:.2f} | "
            f"{beyond:.2f} | {real['resident'] / MIB:.0f} | {stage.passes:.3g} | "
            f"{real['seconds'] / plain['seconds']:.2f} |"
        )
    return lines


def _published() -> list[str]:
    recipe, known = load_recipe("paper-sst2"), device("h100-80g")
    lora = recipe.immunize.lora
    assert lora is not None
    lines = [
        "| defence | planned GB | beyond SFT | as public code steps | published GB | beyond SFT | planned time / SFT's | published |",  # noqa: E501
        "|---|---|---|---|---|---|---|---|",
    ]
    public = public_step(LLAMA_7B, lora.model_dump(), recipe.immunize.batch, recipe.data.max_length)
    first: tuple[float, float] | None = None
    setting = Setting(precision="bfloat16")
    for stage in stages(recipe, LLAMA_7B):
        name = stage.what.removeprefix("immunise: ")
        if name not in PUBLISHED:
            continue
        memory, seconds = stage.memory(setting), stage.seconds(known, setting)
        ours = (memory.total - memory.base) / 1e9
        theirs = (memory.total - memory.base - memory.activations - memory.vocabulary + public) / 1e9
        gigabytes, hours = PUBLISHED[name]
        first = first or (ours, seconds)
        lines.append(
            f"| {name} | {ours:.1f} | {ours - first[0]:.2f} | {theirs:.1f} | {gigabytes or '-'} | "
            f"{'-' if gigabytes is None else f'{gigabytes - 49.3:.1f}'} | {seconds / first[1]:.2f} | {hours / 0.54:.2f} |"  # noqa: E501
        )
    return lines


def _large() -> list[str]:
    recipe = load_recipe("paper-sst2")
    whole = replace_lora(recipe)
    lines = [
        "| model | trained | layout | arithmetic | GiB on a device | fits | time of the alignment |",
        "|---|---|---|---|---|---|---|",
    ]
    known = device("h100-80g")
    for name, config in (("7B", LLAMA_7B), ("70B", LLAMA_70B)):
        for trained, of in (("LoRA", recipe), ("all", whole)):
            stage = next(one for one in stages(of, config) if one.what == "immunise: booster")
            for setting in (
                Setting(),
                Setting(precision="bfloat16", checkpointing=True),
                Setting("FSDP2", 8, precision="bfloat16", checkpointing=True),
            ):
                total = stage.memory(setting).total
                lines.append(
                    f"| {name} | {trained} | {setting.layout}{'' if setting.count == 1 else ' x 8'} | "
                    f"{setting.precision}{', checkpointed' if setting.checkpointing else ''} | {total / GIB:.0f} | "
                    f"{'yes' if total <= USABLE * known.memory else 'no'} | {duration(stage.seconds(known, setting))} |"
                )
    return lines


def replace_lora(recipe: Any) -> Any:
    """The same with all weights trained in the alignment."""
    return recipe.model_copy(update={"immunize": recipe.immunize.model_copy(update={"lora": None})})


def main(arguments: list[str]) -> None:
    """As the file's head says."""
    if arguments[:1] == ["one"]:
        print(json.dumps(measured(arguments[1])))
        return
    if arguments[:1] != ["write"]:
        found = {}
        for case in CASES:
            command = [sys.executable, __file__, "one", case]
            found[case] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(case, found[case], flush=True)
        (DOCS / "plan.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write()


if __name__ == "__main__":
    main(sys.argv[1:])
