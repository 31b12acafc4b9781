"""Judges that are models on this machine: loading them, and reading prompts and answers into them as plain text.

Whatever a prompt or an answer holds, it is data: a special token in it is tokenised letter by letter, it never passes
through a template language, and it is cut where the judge would read no further.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from boostershot.errors import InputError
from boostershot.evaluation.judges.judge import Around, Judge, Pairs, Settings, Verdict, no_progress

Part = tuple[str, bool]  # a piece of a judge's input, and whether it is ours (a template) or data


@dataclass(frozen=True)
class PlainText:
    """A tokenizer that reads special tokens in templates and none in data."""

    tokenizer: Any

    @cached_property
    def control(self) -> frozenset[str]:
        """What the tokenizer reads as one token whatever stands around it; white space commands nothing."""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values()}
        return frozenset(token for token in added | set(self.tokenizer.all_special_tokens) if len(token.strip()) > 1)

    def __call__(self, parts: Sequence[Part]) -> list[int]:
        """The tokens of the parts, read as one text (so that ordinary data is tokenised as published)."""
        # A lone surrogate is no letter in any script, and no tokenizer takes it.
        parts = [(part.encode("utf-8", "replace").decode(), ours) for part, ours in parts]
        pieces, where = [], 0
        text = "".join(part for part, _ in parts)
        for cut in self._cuts(text, parts):
            pieces.append(text[where:cut])
            where = cut
        ids = [i for piece in [*pieces, text[where:]] if piece for i in self._ids(piece)]
        ours = sum(i in self._control_ids for part, trusted in parts if trusted for i in self._ids(part))
        if sum(i in self._control_ids for i in ids) <= ours:
            return ids
        # A normaliser made a special token of what was none: the data loses it.
        return [i for part, ours in parts for i in self._ids(part) if ours or i not in self._control_ids]

    def _cuts(self, text: str, parts: Sequence[Part]) -> list[int]:
        """Where to cut so that no piece holds a special token that the data has a share in."""
        if not self.control:
            return []
        trusted, start = [], 0
        for part, ours in parts:
            if ours:
                trusted.append((start, start + len(part)))
            start += len(part)
        either = "|".join(re.escape(token) for token in sorted(self.control, key=len, reverse=True))
        found = re.finditer(f"(?=({either}))", text)
        return [
            match.start() + 1
            for match in found
            if not any(low <= match.start() and match.end(1) <= high for low, high in trusted)
        ]

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.convert_tokens_to_ids(sorted(self.control)))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def fitted(build: Callable[[str], list[int]], answer: str, limit: int) -> tuple[list[int], bool]:
    """The judge's input with as much of the answer's beginning as `limit` tokens hold, and whether it was cut."""
    keep = len(answer)
    while True:
        ids = build(answer[:keep])
        if len(ids) <= limit or keep == 0:
            return ids, keep < len(answer)
        keep = min(keep - 1, keep * limit // len(ids))


def load(kind: str, model_id: str, dtype: str) -> tuple[Any, PlainText]:
    """A judge's model, for inference, and its tokenizer.

    Args:
        kind: the transformers class, such as AutoModelForCausalLM.
        model_id: a Hub id or a local folder with safetensors weights; code that comes with it is not run.
        dtype: float32, bfloat16, or auto: bfloat16 on a GPU, float32 elsewhere.

    Raises:
        InputError: it cannot be found or read, or has no safetensors.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    from boostershot.models import DEVICE

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model_id, trust_remote_code=False)
        model = getattr(transformers, kind).from_pretrained(
            model_id, dtype=getattr(torch, resolved(dtype)), use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _not_loaded(model_id, error) from error
    return model.to(DEVICE).eval().requires_grad_(False), PlainText(tokenizer)


def resolved(dtype: str) -> str:
    """bfloat16 or float32, which auto chooses by the device."""
    from boostershot.models import DEVICE

    if dtype == "auto":
        return "bfloat16" if DEVICE.type == "cuda" else "float32"
    return dtype


def check(model_id: str) -> None:
    """Raises InputError where there is no model of this id; reads its configuration only."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(model_id, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(model_id, error) from error


def _not_loaded(model_id: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"judge {model_id!r} cannot be loaded: {reason} (expected a Hub id, or a local folder with safetensors weights)"
    )


def complete(
    model: Any, rows: Sequence[Sequence[int]], tokenizer: Any, max_new_tokens: int, batch_size: int
) -> list[str]:
    """The model's greedy continuation of each row of tokens, as text without special tokens."""
    import torch
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = {tokenizer.eos_token_id}
    own = model.generation_config.eos_token_id  # of a chat model: the end of a turn, too
    ends |= set(own) if isinstance(own, list | tuple) else {own}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,  # what is left open is filled from the model's own settings
        repetition_penalty=1.0,
        eos_token_id=sorted(end for end in ends if end is not None) or None,
        pad_token_id=pad if pad is not None else 0,
    )
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    texts = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        longest = max(len(rows[i]) for i in picked)
        gaps = [longest - len(rows[i]) for i in picked]
        ids = [[settings.pad_token_id] * gap + list(rows[i]) for i, gap in zip(picked, gaps, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        with torch.no_grad():
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=settings,
            )
        for i, text in zip(picked, tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True), strict=True):
            texts[i] = text
    return texts


@dataclass(frozen=True)
class LocalJudge(Settings):
    """A model on this machine.

    Args:
        id: a Hub id or a local folder.
        max_length: tokens that it reads at most; a longer answer is cut, and counted.
        dtype: float32, bfloat16, or auto: bfloat16 on a GPU.
        batch_size: answers judged at once.
    """

    id: str
    max_length: int = 4096
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: int = 8

    together: ClassVar[bool] = True
    runtime: ClassVar[tuple[str, ...]] = ("batch_size",)
    counts: ClassVar[tuple[str, ...]] = ("max_length", "batch_size")  # settings that are at least 1

    def __post_init__(self) -> None:
        for name in self.counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")

    def identity(self, around: Around) -> dict[str, Any]:
        """A local folder counts by its content, and `auto` as what it chooses here."""
        from boostershot.models import model_fingerprint

        return {**super().identity(around), "id": model_fingerprint(self.id), "dtype": resolved(self.dtype)}

    def check(self) -> None:
        """The model is there."""
        check(self.id)


@dataclass(frozen=True)
class ChatJudge(LocalJudge):
    """A causal language model that reads a prompt with its answer and writes its verdict.

    Args:
        max_new_tokens: of its verdict.
    """

    max_new_tokens: int = 64

    counts: ClassVar[tuple[str, ...]] = ("max_length", "max_new_tokens", "batch_size")

    def parts(self, tokenizer: Any, prompt: str, answer: str) -> list[Part]:
        """The judge's input."""
        raise NotImplementedError

    def read(self, said: str) -> Verdict:
        """The verdict in what the judge wrote; unknown where there is none."""
        raise NotImplementedError

    def open(self, around: Around) -> Judge:
        """The judge, loaded."""
        model, plain = load("AutoModelForCausalLM", self.id, self.dtype)

        def judge(pairs: Pairs, advance: Callable[[int], None] = no_progress) -> list[Verdict]:
            verdicts = []
            for start in range(0, len(pairs), self.batch_size):
                some = pairs[start : start + self.batch_size]
                inputs = [
                    fitted(lambda text, p=p: plain(self.parts(plain.tokenizer, p, text)), a, self.max_length)
                    for p, a in some
                ]
                readable = [i for i, (ids, _) in enumerate(inputs) if len(ids) <= self.max_length]
                said = complete(
                    model, [inputs[i][0] for i in readable], plain.tokenizer, self.max_new_tokens, self.batch_size
                )
                found = dict(zip(readable, map(self.read, said), strict=True))
                unread = too_long(self.max_length)
                verdicts += [cut(found.get(i, unread), truncated) for i, (_, truncated) in enumerate(inputs)]
                advance(len(some))
            return verdicts

        return judge


def cut(verdict: Verdict, truncated: bool) -> Verdict:
    """The verdict, marked where the answer was cut."""
    return replace(verdict, truncated=truncated)


def too_long(tokens: int) -> Verdict:
    """No verdict on an answer of which the prompt leaves nothing to read."""
    return Verdict(note=f"the prompt is longer than the {tokens} tokens that the judge reads")


def unknown(said: str) -> Verdict:
    """No verdict, and how long what the judge wrote in its place is: the text itself may quote the answer."""
    return Verdict(note=f"unreadable: {len(said.strip())} characters without a verdict")
