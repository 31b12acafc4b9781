"""The same greedy answers from vLLM: an optional package, for GPUs.

Not run for real: tested against a stand-in of vLLM's interface (`LLM`, `SamplingParams`, prompts as token ids).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from boostershot.data.format import Format
from boostershot.errors import InputError

INSTALL = "pip install '.[vllm]'"
CHUNK = 512  # prompts between two writes; within one, vLLM schedules


def import_vllm() -> Any:
    """The package.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise InputError(
            f"runtime.generator: vllm, but it cannot be imported ({error}); expected transformers, or: {INSTALL}"
        ) from None


def generate_with_vllm(
    weights: Path,
    form: Format,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    known: Mapping[str, str] | None = None,
    keep: Callable[[Mapping[str, str]], None] = lambda answers: None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """As `generation.generate`, from a folder of weights in place of a model.

    In float32, as everything that is measured; vLLM batches by itself. The engine is let go when this returns.

    Raises:
        InputError: vLLM is not installed.
    """
    vllm = import_vllm()
    answers = dict(known or {})
    rows = {prompt: form.prompt_ids(prompt) for prompt in dict.fromkeys(prompts)}
    ends = form.ends()
    missing = [prompt for prompt in rows if prompt not in answers]
    advance(sum(prompt in answers for prompt in prompts))
    if missing:
        engine = vllm.LLM(
            model=str(weights),
            tokenizer=str(weights),
            dtype="float32",
            max_model_len=max(map(len, rows.values())) + max_new_tokens,
            enable_prefix_caching=True,  # the chat preamble
            generation_config="vllm",  # and not the model's own temperature and penalties
            trust_remote_code=False,
            seed=0,
        )
        settings = vllm.SamplingParams(temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=sorted(ends))
        for start in range(0, len(missing), CHUNK):
            asked = missing[start : start + CHUNK]
            outputs = engine.generate(
                [{"prompt_token_ids": rows[prompt]} for prompt in asked], settings, use_tqdm=False
            )
            tokens = [list(takewhile(lambda token: token not in ends, o.outputs[0].token_ids)) for o in outputs]
            texts = form.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            new = {prompt: text.strip() for prompt, text in zip(asked, texts, strict=True)}
            keep(new)
            answers |= new
            advance(sum(prompt in new for prompt in prompts))
        del engine
    return [answers[prompt] for prompt in prompts]
