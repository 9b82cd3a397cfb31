"""Asking a chat endpoint that speaks the OpenAI protocol, so that nothing is lost, paid twice or made up.

Each ask ends in exactly one reply: a text that its reader accepted, or the reason why there is none. Overload, server
errors, dropped connections, stalls, replies that are not JSON or come from another model are tried again, with waits
that honour Retry-After; a readable reply of the wrong form is asked once more; a refused key or an empty account stops
the run with one message. Calls run side by side on an event loop of their own, so notebooks work too. Knows nothing of
features or rubrics. `openai` is imported only when the first call is made.
"""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import Field

from saelab.core.config import Config
from saelab.core.errors import MissingDependency, UserError
from saelab.core.progress import SILENT, Progress, Task
from saelab.core.seeds import numpy_generator
from saelab.judges.cache import ReplyCache, Spend, request_key
from saelab.judges.limit import AdaptiveLimit, retry_after

AGAIN = "That reply could not be read: {problem}. Answer again, in exactly the form that was asked for."
T = TypeVar("T")


class ChatConfig(Config):
    """A model behind an OpenAI-compatible endpoint, and how hard to try."""

    model: str = Field(description="The model's id, compared with the id in every reply.")
    base_url: str | None = Field(default=None, description="The endpoint; None is OpenAI's own.")
    key_variable: str = Field(default="OPENAI_API_KEY", description="Environment variable that holds the API key.")
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=300, ge=1)
    concurrency: int = Field(default=16, ge=1, description="Calls in flight at most; fewer after a 429.")
    deadline: float = Field(default=60.0, gt=0, description="Seconds for one call, from connecting to the last byte.")
    attempts: int = Field(default=8, ge=1, description="Calls for one reply, failures included.")
    backoff: float = Field(default=0.5, ge=0, description="First wait after a failure in seconds; doubles each time.")
    price: tuple[float, float] | None = Field(
        default=None, description="Dollars per million prompt and completion tokens."
    )


@dataclass(frozen=True)
class Ask:
    """One question. `problem_of(text)` says what is wrong with a reply's form, None where it can be read."""

    prompt: str
    template: str
    sample: int
    problem_of: Callable[[str], str | None]


@dataclass(frozen=True)
class Reply:
    """What came of an ask: the text if `state` is "ok", else the reason."""

    state: Literal["ok", "unparsed", "missing"]
    text: str | None
    reason: str | None = None


class _TryAgain(Exception):
    """A failure that may pass. pause: what the endpoint asked to wait; overload: slow down; final: it will not pass."""

    def __init__(self, reason: str, *, pause: float | None = None, overload: bool = False, final: bool = False):
        super().__init__(reason)
        self.pause = pause
        self.overload = overload
        self.final = final


class ChatClient:
    """Asks one model. With a cache, a question that was ever answered is not asked again."""

    def __init__(self, config: ChatConfig, *, cache: ReplyCache | None = None, api_key: str | None = None):
        self.config = config
        self.cache = cache
        self._api_key = api_key
        self._spent = Spend(0, 0, 0, 0)

    def ask(self, asks: Sequence[Ask], *, progress: Progress = SILENT) -> list[Reply]:
        """Replies in order. The same question twice is one call. Raises `UserError` where the endpoint refuses us."""
        keys = [self.key(ask) for ask in asks]
        first = {key: ask for key, ask in reversed(list(zip(keys, asks, strict=True)))}
        found: dict[str, Reply] = {}
        for key, ask in first.items():
            text = self.cache.get(key) if self.cache is not None else None
            if text is not None and ask.problem_of(text) is None:
                found[key] = Reply("ok", text)
        todo = {key: ask for key, ask in first.items() if key not in found}
        if todo:
            with progress.task(f"asking {self.config.model}", len(todo), "questions") as task:
                found |= _on_own_loop(self._ask_all(todo, task))
        return [found[key] for key in keys]

    def key(self, ask: Ask, *, messages: Sequence[dict[str, str]] | None = None) -> str:
        """The cache key of an ask."""
        config = self.config
        return request_key(
            endpoint=config.base_url,
            model=config.model,
            messages=list(messages or _messages(ask)),
            parameters={"temperature": config.temperature, "max_tokens": config.max_tokens},
            template=ask.template,
            sample=ask.sample,
        )

    @property
    def spend(self) -> Spend:
        """What this client's calls cost so far (cached replies cost nothing)."""
        return self._spent

    async def _ask_all(self, todo: dict[str, Ask], task: Task) -> dict[str, Reply]:
        limit = AdaptiveLimit(self.config.concurrency, self.config.concurrency)
        found: dict[str, Reply] = {}

        async def one(key: str, ask: Ask) -> None:
            found[key] = await self._answer(client, limit, key, ask)
            task.advance(calls=self._spent.calls, failed=self._spent.failed_calls)

        async with self._client() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for key, ask in todo.items():
                        group.create_task(one(key, ask))
            except BaseExceptionGroup as errors:  # a refused key, or an interrupt: one message, not one per call
                raise errors.exceptions[0] from None
        return found

    async def _answer(self, client: Any, limit: AdaptiveLimit, key: str, ask: Ask) -> Reply:
        """A reply of the right form, asking once more where the form was wrong."""
        messages, problem = _messages(ask), ""
        for _ in range(2):
            try:
                text = await self._persist(client, limit, messages, key)
            except _TryAgain as error:
                return Reply("missing", None, str(error))
            problem = ask.problem_of(text)
            if problem is None:
                if self.cache is not None:
                    self.cache.put(key, self.config.model, text)
                return Reply("ok", text)
            messages = [
                *_messages(ask),
                {"role": "assistant", "content": text},
                {"role": "user", "content": AGAIN.format(problem=problem)},
            ]
        return Reply("unparsed", None, problem)

    async def _persist(self, client: Any, limit: AdaptiveLimit, messages: list[dict[str, str]], key: str) -> str:
        """The text of a well-formed HTTP reply; `_TryAgain` when attempts run out."""
        waits = numpy_generator("backoff", key)
        for attempt in range(1, self.config.attempts + 1):
            pause = 0.0
            try:
                async with limit.slot():
                    text = await self._call(client, messages, key)
                limit.succeeded()
                return text
            except _TryAgain as error:
                wait = self.config.backoff * 2 ** (attempt - 1) * float(waits.uniform(0.5, 1.0))
                pause = min(60.0, max(wait, error.pause or 0.0))
                if error.overload:
                    limit.limited(pause)
                if error.final or attempt == self.config.attempts:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _call(self, client: Any, messages: list[dict[str, str]], key: str) -> str:
        """One HTTP call, recorded whatever becomes of it."""
        usage, outcome = None, "ok"
        try:
            async with asyncio.timeout(self.config.deadline):
                body = await self._send(client, messages)
            text, usage, model = _read(body)
            if not _same_model(self.config.model, model):
                raise _TryAgain(f"the reply came from the model {model!r}, not {self.config.model!r}")
            return text
        except TimeoutError:
            outcome = "deadline"
            raise _TryAgain(f"no reply within {self.config.deadline:g} s") from None
        except _TryAgain as error:
            outcome = str(error)
            raise
        except UserError:
            outcome = "refused"
            raise
        finally:
            self._book(key, outcome, usage)

    async def _send(self, client: Any, messages: list[dict[str, str]]) -> str:
        """The body of a 200; everything else is `_TryAgain`, or a `UserError` that ends the run."""
        import openai

        config = self.config
        try:
            raw = await client.chat.completions.with_raw_response.create(
                model=config.model, messages=messages, temperature=config.temperature, max_tokens=config.max_tokens
            )
            return raw.http_response.text
        except openai.APITimeoutError:
            raise _TryAgain("the connection timed out") from None
        except openai.APIConnectionError as error:
            raise _TryAgain(f"no connection: {error.__cause__ or error}") from None
        except openai.APIStatusError as error:
            message = f"{error.code or ''} {error.message}".strip()
            raise _status(error.status_code, error.response.headers.get("retry-after"), message, config) from None

    def _client(self) -> Any:
        try:
            import openai
        except ImportError:
            raise MissingDependency(
                "This judge needs the openai library.", hint="pip install 'saelab[judge]'"
            ) from None
        key = self._api_key or os.environ.get(self.config.key_variable)
        if not key:
            if self.config.base_url is None:
                raise UserError(
                    f"The judge {self.config.model} needs an API key.",
                    hint=f"Set {self.config.key_variable}, or use the lexical or a local judge.",
                )
            key = "none"  # local servers ask for none, but the library insists on one
        return openai.AsyncOpenAI(
            api_key=key, base_url=self.config.base_url, max_retries=0, timeout=self.config.deadline
        )

    def _book(self, key: str, outcome: str, usage: tuple[int, int] | None) -> None:
        prompt, completion = usage or (0, 0)
        old, price = self._spent, self.config.price
        prompt, completion = old.prompt_tokens + prompt, old.completion_tokens + completion
        dollars = None if price is None else (prompt * price[0] + completion * price[1]) / 1e6
        self._spent = Spend(old.calls + 1, old.failed_calls + (outcome != "ok"), prompt, completion, dollars)
        if self.cache is not None:
            self.cache.record(self.config.model, key, outcome, usage)


def _messages(ask: Ask) -> list[dict[str, str]]:
    return [{"role": "user", "content": ask.prompt}]


def _read(body: str) -> tuple[str, tuple[int, int] | None, str]:
    """Text, usage and model id of a chat completion; `_TryAgain` for anything that is not one."""
    try:
        data = json.loads(body)
    except json.JSONDecodeError:
        raise _TryAgain(f"the reply is not JSON: {body.strip()[:60]!r}") from None
    try:
        text, model = data["choices"][0]["message"]["content"], data["model"]
    except (KeyError, IndexError, TypeError):
        raise _TryAgain("the reply is not a chat completion") from None
    if not isinstance(text, str) or not text.strip():
        raise _TryAgain("the reply has no text")
    usage = data.get("usage") or {}
    match usage.get("prompt_tokens"), usage.get("completion_tokens"):
        case (int(prompt), int(completion)):
            return text, (prompt, completion), str(model)
    return text, None, str(model)


def _same_model(asked: str, answered: str) -> bool:
    """Whether the id in a reply is the one asked for, or a dated snapshot of it (`gpt-4o-mini-2024-07-18`)."""
    if answered == asked:
        return True
    rest = answered.removeprefix(f"{asked}-")
    return rest != answered and rest.replace("-", "").isdigit()


def _status(code: int, wait: str | None, message: str, config: ChatConfig) -> Exception:
    if code in (401, 403) or "insufficient_quota" in message:
        why = "refused the API key" if code == 401 else "does not allow this (key, account or credit)"
        return UserError(
            f"The judge's endpoint {why}: {message[:200]}",
            hint=f"Check {config.key_variable} and the account; judgements made so far are kept.",
        )
    if code == 404:
        return UserError(
            f"The judge's endpoint does not know {config.model}: {message[:200]}", hint="Check the model's id."
        )
    if code in (400, 413, 422):  # this item's fault (a content filter, too long): another try would end the same
        return _TryAgain(f"HTTP {code}: {message[:200]}", final=True)
    return _TryAgain(f"HTTP {code}", pause=retry_after(wait), overload=code in (429, 503))


def _on_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop in a thread of its own: also where a loop already runs (notebooks)."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:  # handed to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="judge", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
