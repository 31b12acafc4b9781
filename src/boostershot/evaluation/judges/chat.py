"""Asking an OpenAI-compatible chat completions endpoint, with patience, for replies of a given JSON form.

`httpx2`, which huggingface_hub brings anyway, does the HTTP: for one POST the `openai` package is not needed.
Run against a real local HTTP server by the tests; not run for real against a paid service.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from boostershot.errors import InputError, StageFailed
from boostershot.evaluation.judges.judge import Settings, Verdict
from boostershot.evaluation.judges.local import unknown

if TYPE_CHECKING:
    import httpx2

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries: doubled each time, a random part of it
REPLY_TOKENS = 200
_AGAIN = (408, 409, 425, 429)  # as 5xx: ask once more later
_FORM = (400, 422)  # of the request: servers differ in what they call a field that they do not take
_ABOUT = (*_FORM, 413, 451)  # may be for this answer alone; all else from 300 on is the recipe's or the account's

Item = TypeVar("Item")


@dataclass(frozen=True)
class Form:
    """What a reply must look like.

    Args:
        schema: JSON schema, for endpoints that have structured output.
        read: the verdict in a reply.
    """

    schema: Mapping[str, Any]
    read: Callable[[str], Verdict]


@dataclass(frozen=True)
class Chat(Settings):
    """An endpoint and how it is asked.

    Args:
        base_url: such as https://api.openai.com/v1; `/chat/completions` is appended.
        model: its name there.
        key_env: the environment variable that holds the API key; none for a local server without one.
        answer_chars: characters of an answer that are sent; a longer one is cut, and counted.
        timeout: seconds for a reply.
        retries: tries after the first, where the endpoint is busy, broken or silent.
        concurrency: requests at a time.
        price_in, price_out: of a million tokens read and written, in any currency; the cost is shown where given.
    """

    base_url: str
    model: str
    key_env: str | None = None
    answer_chars: int = 8000
    timeout: float = 60.0
    retries: int = 6
    concurrency: int = 4
    price_in: float | None = None
    price_out: float | None = None

    called: ClassVar[str]  # in messages
    runtime: ClassVar[tuple[str, ...]] = ("key_env", "timeout", "retries", "concurrency", "price_in", "price_out")

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise ValueError(f"base_url is {self.base_url!r}; expected an address such as https://api.openai.com/v1")
        if url.username is not None or url.password is not None:
            raise ValueError(
                "base_url holds a name or password; expected none: name an environment variable in key_env"
            )
        for name, least in (("answer_chars", 1), ("retries", 0), ("concurrency", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.timeout <= 0:
            raise ValueError(f"timeout is {self.timeout:g}; expected seconds, more than 0")
        for name in ("price_in", "price_out"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; expected at least 0")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out: one is missing; expected both or none")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost; None where the recipe states no prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6

    def check(self) -> None:
        """The key is there."""
        self.key()

    def key(self) -> str | None:
        """The API key; None where the endpoint wants none.

        Raises:
            InputError: the environment variable holds none.
        """
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not (key and key.isascii() and key.isprintable()):
            raise InputError(f"{self.called}: the environment variable {self.key_env} holds no API key; expected one")
        return key


class Client:
    """Asks the endpoint about many answers at a time."""

    def __init__(self, settings: Chat, form: Form):
        import httpx2

        self.settings = settings
        self.form = form
        self.key = key = settings.key()
        self.client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=settings.timeout,
            limits=httpx2.Limits(max_connections=settings.concurrency),
        )
        self.without: frozenset[str] = frozenset()  # what this endpoint has refused to be asked with
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.batch = 2 * settings.concurrency  # a reply costs money: few are lost by a kill

    def each(
        self, items: Sequence[Item], one: Callable[[Item], Verdict], advance: Callable[[int], None]
    ) -> list[Verdict]:
        """`one` of every item, several at a time, in their order.

        Raises:
            InputError: the endpoint refuses the key, the address or the model.
            StageFailed: it is out of order; an outage is no verdict.
        """

        def told(item: Item) -> Verdict:
            verdict = one(item)
            with self.lock:
                advance(1)
            return verdict

        self.stopped.clear()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            asked = [pool.submit(told, item) for item in items]
            try:
                return [future.result() for future in asked]
            except BaseException:
                self.stopped.set()  # nobody waits on for a try that no one will read
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def cut(self, answer: str) -> str:
        """The part of an answer that is sent."""
        return answer[: self.settings.answer_chars]

    def ask(self, instruction: str, material: str) -> Verdict:
        """The verdict in the reply to an instruction and what it is about."""
        # A lone surrogate cannot be sent; it is no letter in any script.
        turns = [
            {"role": role, "content": text.encode("utf-8", "replace").decode()}
            for role, text in (("system", instruction), ("user", material))
        ]
        without = self.without
        while True:
            response = self._send(self._request(turns, without))
            more = _refused(response.text, without) if response.status_code in _FORM else None
            if more is not None:
                without = without | {more}
                continue
            if response.status_code >= 300:
                note = f"the endpoint refused the request ({self._told(response)})"
                return Verdict(note=note, final=False)  # a refusal to judge: the next run may ask again
            if without != self.without:
                with self.lock:
                    self.without = self.without | without  # it worked without: do not ask with it again
            return self._read(response)

    def _request(self, turns: list[dict[str, str]], without: frozenset[str]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.settings.model, "messages": turns}
        if "temperature" not in without:
            body["temperature"] = 0
        body["max_tokens" if "max_tokens" not in without else "max_completion_tokens"] = REPLY_TOKENS
        if "response_format" not in without:
            schema = {"name": "marks", "strict": True, "schema": self.form.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _send(self, body: dict[str, Any]) -> httpx2.Response:
        """The response, once it is one that another try would not change."""
        import httpx2

        url = self.settings.base_url.rstrip("/") + "/chat/completions"
        trouble = ""
        for attempt in range(self.settings.retries + 1):
            asked_to_wait = None
            try:
                response = self.client.post(url, json=body)
            except httpx2.TransportError as error:  # refused, broken off, or too slow
                trouble = type(error).__name__
                if not isinstance(error, httpx2.ProtocolError):  # which quotes the server
                    trouble += f": {error}"
            else:
                status = response.status_code
                if status < 300 or status in _ABOUT:
                    return response
                if status < 500 and status not in _AGAIN:
                    raise InputError(
                        f"{self.settings.called}: {url} answers {self._told(response)} to the model "
                        f"{self.settings.model!r}; expected a base_url, a model and a key that it takes"
                    )
                trouble = self._told(response)
                asked_to_wait = _retry_after(response)
            if attempt == self.settings.retries or self.stopped.wait(_wait(attempt, asked_to_wait)):
                break
        raise StageFailed(
            f"{self.settings.called}: {url} gave no verdict in {self.settings.retries + 1} tries ({trouble}); "
            "what is judged is kept: give the same command again later"
        )

    def _told(self, response: httpx2.Response) -> str:
        """The status and the error's type and code; no more, for a server's text may quote the request or the key."""
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        error = body.get("error", body) if isinstance(body, dict) else None
        named = [error.get(name) for name in ("type", "code")] if isinstance(error, dict) else []
        words = [word for word in named if isinstance(word, str) and re.fullmatch(r"[A-Za-z][\w.-]{0,59}", word)]
        said = ", ".join([str(response.status_code), *dict.fromkeys(words)])
        return said.replace(self.key, "***") if self.key else said

    def _read(self, response: httpx2.Response) -> Verdict:
        try:
            reply = response.json()
            said = reply["choices"][0]["message"]["content"]
            usage = reply.get("usage") or {}
            tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return unknown(response.text)
        verdict = self.form.read(said) if isinstance(said, str) else unknown(json.dumps(said))
        spent = [count if type(count) is int and count >= 0 else 0 for count in tokens]
        return replace(verdict, prompt_tokens=spent[0], completion_tokens=spent[1])


def _refused(said: str, without: frozenset[str]) -> str | None:
    """What to leave out after a 400 or 422: what it names, else the structured output, which few servers have."""
    said = said.lower()
    named = {"temperature": ("temperature",), "max_tokens": ("max_tokens",)}
    for part, words in named.items():
        if part not in without and any(word in said for word in words):
            return part
    return "response_format" if "response_format" not in without else None


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds for which the endpoint wants to be left alone; a number or a date."""
    given = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None


def _wait(attempt: int, asked: float | None) -> float:
    """Seconds until the next try: what was asked for (an hour at most), else longer each time and never in step."""
    if asked is not None and asked == asked:
        return min(asked, 3600.0)
    return random.uniform(0.5, 1.0) * min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
