"""From a prompt and an answer to tokens: the chat template, or the Alpaca layout, and where supervision starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jinja2.exceptions import TemplateError
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from boostershot.core.batch import IGNORED, Rows
from boostershot.data.asking import PLAIN, Asking
from boostershot.data.splits import Row
from boostershot.data.tasks.task import INPUT
from boostershot.errors import InputError

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{prompt}\n\n### Response:\n"
)  # Stanford Alpaca's layout, methods used by the field since
ALPACA_INPUT = ALPACA.replace(
    "a task.", "a task, paired with an input that provides further context."
)  # its layout of a prompt with an input section
MARKED = {
    "raw": "{prompt}\n",  # no markers at all
    # As TamperBench (arXiv 2602.06911) has them, without a break or with one.
    "instruction_response": "INSTRUCTION: {prompt}RESPONSE: ",
    "generic_chat": "User: {prompt}\nAssistant: ",
}
TEMPLATES = ("auto", "chat", "alpaca", *MARKED)


@dataclass(frozen=True)
class Format:
    """How prompts and answers become token ids.

    Prompt and answer are tokenised apart, so that training sees exactly the prompt that generation starts from.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str  # one of TEMPLATES but auto
    asking: Asking = PLAIN

    @classmethod
    def choose(cls, tokenizer: PreTrainedTokenizerBase, template: str = "auto") -> Format:
        """`chat` is the tokenizer's template, `alpaca` Stanford's, `raw` none; `auto` takes the first that there is.

        `instruction_response` and `generic_chat` are those that TamperBench's attackers choose from besides.

        Raises:
            InputError: `chat` is asked for and the tokenizer has none, or the name is unknown.
        """
        if template not in TEMPLATES:
            raise InputError(f"template: {template!r}; expected {', '.join(TEMPLATES[:-1])} or {TEMPLATES[-1]}")
        if template == "chat" and tokenizer.chat_template is None:
            raise InputError("template: chat, but this tokenizer has no chat template; use alpaca")
        if template == "auto":
            template = "alpaca" if tokenizer.chat_template is None else "chat"
        return cls(tokenizer, template)

    def asked(self, asking: Asking) -> Format:
        """The same, with questions put in this way."""
        return replace(self, asking=asking)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The tokens after which the model answers; a prefill is the last of them."""
        turns = [*self.asking.shots, (self.asking.question(prompt), None)]
        if self.name != "chat":
            system = [] if self.asking.system is None else [f"{self.asking.system}\n\n"]
            text = "".join([*system, *(self._turn(*turn) for turn in turns)])
            return self.tokenizer(text + self.asking.prefill).input_ids
        messages = []
        for question, answer in turns:
            messages.append({"role": "user", "content": question})
            messages += [] if answer is None else [{"role": "assistant", "content": answer}]
        return self.answer_ids(self._chat(messages) + self.asking.prefill)  # the template has its own special tokens

    def _chat(self, messages: list[dict[str, str]]) -> str:
        """The turns in the chat template; where it has no system turn, the first user turn starts with that text."""

        def rendered(turns: list[dict[str, str]]) -> str:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

        system = self.asking.system
        if system is None:
            return rendered(messages)
        try:
            text = rendered([{"role": "system", "content": system}, *messages])
        except TemplateError:  # such as Gemma's
            text = ""
        if system.strip() in text:
            return text
        first, *others = messages
        return rendered([{**first, "content": f"{system}\n\n{first['content']}"}, *others])

    @property
    def around(self) -> int:
        """How many tokens stand around a question beyond the plain way's."""
        return len(self.prompt_ids("x")) - len(self.asked(PLAIN).prompt_ids("x"))

    def _turn(self, question: str, answer: str | None) -> str:
        """A question, and its answer if it is an example, without a chat template."""
        layout = MARKED.get(self.name, ALPACA_INPUT if INPUT in question else ALPACA)
        return layout.format(prompt=question) + ("" if answer is None else f"{answer}\n\n")

    def answer_ids(self, answer: str) -> list[int]:
        """The tokens of the answer itself, without the end of the turn."""
        return self.tokenizer(answer, add_special_tokens=False).input_ids

    @property
    def pad_id(self) -> int:
        """The padding token; what stands there is masked."""
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    def fitting(self, rows: Sequence[Row], max_length: int) -> list[Row]:
        """The rows whose prompt leaves room for an answer."""
        room = max_length - len(self.prompt_ids("x"))  # a token holds a byte at least: short prompts need no count
        return [row for row in rows if len(row.prompt.encode()) < room or len(self.prompt_ids(row.prompt)) < max_length]

    def cut(self, answer: str, tokens: int) -> str:
        """The first `tokens` tokens of an answer, as text."""
        return str(self.tokenizer.decode(self.answer_ids(answer)[:tokens])).strip()

    def end_ids(self) -> list[int]:
        """The tokens that end an answer: what the chat template writes after one, else the end-of-text token."""
        if self.name == "chat":
            turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "xyzzy"}]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            end = str(text).rpartition("xyzzy")[2].strip()
            if end:
                return self.answer_ids(end)
        return [int(self.tokenizer.eos_token_id)]  # type: ignore[arg-type]

    def ends(self) -> set[int]:
        """The tokens at which an answer that is being written ends."""
        end = self.tokenizer.eos_token_id
        return {self.end_ids()[0]} | ({int(end)} if end is not None else set())  # type: ignore[arg-type]

    def tokenize(self, prompt: str, answer: str, *, name: str, max_length: int, end: bool = True) -> TokenizedRow:
        """A supervised row: the answer is cut at `max_length` tokens, the prompt never.

        Raises:
            InputError: the prompt leaves no room for an answer, or the answer is empty; names the row.
        """
        prompt_ids = self.prompt_ids(prompt)
        answer_ids = self.answer_ids(answer) + (self.end_ids() if end else [])
        if len(prompt_ids) >= max_length:
            raise InputError(
                f"{name}: the prompt has {len(prompt_ids)} tokens, and data.max_length {max_length} leaves no room "
                "for an answer; raise it or drop the row"
            )
        if not answer_ids:
            raise InputError(f"{name}: the answer is empty")
        return TokenizedRow(name, tuple(prompt_ids), tuple(answer_ids[: max_length - len(prompt_ids)]))


@dataclass(frozen=True)
class TokenizedRow:
    """One row: its name, the prompt's tokens (unsupervised) and the answer's (supervised)."""

    name: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def input_ids(self) -> list[int]:
        """Prompt and answer."""
        return [*self.prompt, *self.answer]

    @property
    def labels(self) -> list[int]:
        """-100 on the prompt, the token itself on the answer."""
        return [IGNORED] * len(self.prompt) + list(self.answer)


def collate(rows: Sequence[TokenizedRow], pad_id: int) -> Rows:
    """Rows padded at the right to the longest of them."""
    time = max(len(row.prompt) + len(row.answer) for row in rows)

    def pad(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (time - len(values))

    return Rows.of(
        {
            "input_ids": torch.tensor([pad(row.input_ids, pad_id) for row in rows]),
            "attention_mask": torch.tensor([pad([1] * len(row.input_ids), 0) for row in rows]),
            "labels": torch.tensor([pad(row.labels, IGNORED) for row in rows]),
        },
        [row.name for row in rows],
    )
