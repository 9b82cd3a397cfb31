"""Asking a chat endpoint that speaks the OpenAI protocol, so that nothing is lost, paid twice or made up.

Each ask ends in exactly one reply: a text that its reader accepted, or a state with the reason. What brought no reply
(overload, server errors, dropped connections, stalls) is tried again with waits that honour Retry-After; a reply that
was paid for and cannot be used is asked for once more; a refusal, a filter or a spent budget is not argued with. What
would repeat for every question (a refused key, a parameter the model does not take, another model's name) ends the run
with one message, which says what to write: the first question goes alone until the endpoint has proved itself. Calls
run on an event loop of their own, so notebooks work too. Knows nothing of features or rubrics.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from saelab.core.errors import MissingDependency, SaelabError, UserError
from saelab.core.progress import SILENT, Progress, Task
from saelab.judges.cache import ReplyCache, Spend, request_key
from saelab.judges.completion import Completion, read_completion
from saelab.judges.endpoint import ChatConfig
from saelab.judges.failures import Passing, Rejected, failure_of, of_error_reply
from saelab.judges.transport import Unreadable, client_of, key_of

AGAIN = "That reply could not be read: {problem}. Answer again, in exactly the form that was asked for."
PROBES = 3  # questions refused alike before the endpoint has answered any; then it will refuse them all
ASKED, PAID = 3, 2  # replies to one question at most: of any kind, and of those that were paid for
LONGEST_WAIT = 60.0
T = TypeVar("T")
State = Literal["ok", "refused", "unparsed", "missing"]


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

    state: State
    text: str | None
    reason: str | None = None


@dataclass
class _Lane:
    """What the calls of one round share: the client, and how many may be in flight and started in a minute."""

    client: Any
    slots: asyncio.Semaphore
    rate: Any | None


@dataclass
class _Proof:
    """What is known of the endpoint in this process. An error that ended a run is raised again, without a call."""

    answered: bool = False
    names: Counter[str] = field(default_factory=Counter)
    rejected: list[str] = field(default_factory=list)
    ended: SaelabError | None = None


class ChatClient:
    """Asks one model. With a cache, a question that was ever answered is not asked again."""

    def __init__(self, config: ChatConfig, *, cache: ReplyCache | None = None, api_key: str | None = None):
        self.config = config
        self.cache = cache
        self._api_key = api_key
        self._spent = Spend(0, 0, 0, 0)
        self._proof = _Proof()

    def ask(self, asks: Sequence[Ask], *, progress: Progress = SILENT) -> list[Reply]:
        """Replies in order. The same question twice is one call. Raises `UserError` where the endpoint refuses us."""
        keys = [self.key(ask) for ask in asks]
        first = {key: ask for key, ask in reversed(list(zip(keys, asks, strict=True)))}
        found: dict[str, Reply] = {}
        for key, ask in first.items():
            kept = self.cache.get(key) if self.cache is not None else None
            if kept is not None and self._accepts(kept.model):
                if kept.refused:
                    found[key] = Reply("refused", None, kept.text)
                elif ask.problem_of(kept.text) is None:
                    found[key] = Reply("ok", kept.text)
        todo = {key: ask for key, ask in first.items() if key not in found}
        if todo:
            with progress.task(f"asking {self.config.model}", len(todo), "questions") as task:
                found |= _on_own_loop(self._ask_all(todo, task))
        return [found[key] for key in keys]

    def key(self, ask: Ask) -> str:
        """The cache key of an ask: all that the endpoint is sent, and the version of the question's wording."""
        return request_key(
            endpoint=self.config.base_url,
            model=self.config.model,
            messages=self._messages(ask),
            parameters=self.config.parameters,
            template=ask.template,
            sample=ask.sample,
        )

    @property
    def spend(self) -> Spend:
        """What this client's calls cost so far (cached replies cost nothing)."""
        return self._spent

    def _messages(self, ask: Ask) -> list[dict[str, str]]:
        system = [] if self.config.system is None else [{"role": "system", "content": self.config.system}]
        return [*system, {"role": "user", "content": ask.prompt}]

    def _accepts(self, model: str) -> bool:
        return accepted(model, self.config.model, self.config.accept)

    async def _ask_all(self, todo: dict[str, Ask], task: Task) -> dict[str, Reply]:
        if self._proof.ended is not None:
            raise self._proof.ended
        found: dict[str, Reply] = {}

        async def one(key: str) -> None:
            found[key] = await self._answer(lane, key, todo[key])
            task.advance(calls=self._spent.calls, failed=self._spent.failed_calls)

        async with AsyncExitStack() as stack:
            lane = await self._lane(stack)
            try:
                for key in todo:
                    if self._proof.answered or (found and not self._proof.rejected):
                        break
                    await one(key)
                async with asyncio.TaskGroup() as group:
                    for key in todo:
                        if key not in found:
                            group.create_task(one(key))
            except SaelabError as error:
                self._proof.ended = error
                raise
            except BaseExceptionGroup as errors:  # a refused key, or an interrupt: one message, not one per call
                if isinstance(errors.exceptions[0], SaelabError):
                    self._proof.ended = errors.exceptions[0]
                raise errors.exceptions[0] from None
        return found

    async def _answer(self, lane: _Lane, key: str, ask: Ask) -> Reply:
        """One reply. What was paid for and cannot be used is asked for once more; what is no completion, twice."""
        messages = self._messages(ask)
        reply, paid = Reply("missing", None), 0
        for _ in range(ASKED):
            try:
                got = await self._persist(lane, messages, key)
            except Passing as error:
                return Reply("missing", None, str(error))
            except Rejected as error:
                return self._rejected(error)
            if got.ending == "refused":
                if self.cache is not None:
                    self.cache.put(key, got.model, got.reason, refused=True)
                return Reply("refused", None, got.reason)
            if got.ending == "cut":
                return Reply("unparsed", None, got.reason)
            if got.ending == "odd":
                reply, paid = Reply("missing", None, got.reason), paid + (got.usage is not None)
                if paid == PAID:
                    break
                continue
            problem = ask.problem_of(got.text)
            if problem is None:
                if self.cache is not None:
                    self.cache.put(key, got.model, got.text)
                return Reply("ok", got.text)
            reply, paid = Reply("unparsed", None, problem), paid + 1
            if paid == PAID:
                break
            messages = [
                *self._messages(ask),
                {"role": "assistant", "content": got.text},
                {"role": "user", "content": AGAIN.format(problem=problem)},
            ]
        return reply

    def _rejected(self, error: Rejected) -> Reply:
        """One question that the endpoint does not take; several before it took any end the run."""
        if error.refused:
            self._proof.answered = True
            return Reply("refused", None, str(error))
        if not self._proof.answered:
            self._proof.rejected.append(str(error))
            if len(self._proof.rejected) >= PROBES:
                raise UserError(
                    f"The judge's endpoint refused the first {PROBES} questions: {error}",
                    hint="Change what it names under `judge`; judgements made so far are kept.",
                )
        return Reply("missing", None, str(error))

    async def _persist(self, lane: _Lane, messages: list[dict[str, str]], key: str) -> Completion:
        """What one call came to, tried again while no reply comes; `Passing` when attempts run out."""
        import tenacity

        first = self.config.backoff
        steady = tenacity.wait_exponential_jitter(multiplier=first, max=LONGEST_WAIT, jitter=first)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            asked = error.pause if isinstance(error, Passing) and error.pause is not None else 0.0
            return max(steady(state), asked)

        tries = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.config.attempts),
            wait=wait,
            retry=tenacity.retry_if_exception_type(Passing),
            reraise=True,
        )
        return await tries(self._call, lane, messages, key)

    async def _call(self, lane: _Lane, messages: list[dict[str, str]], key: str) -> Completion:
        """One HTTP call, recorded whatever becomes of it."""
        usage, outcome = None, "stopped"
        async with lane.slots, lane.rate or AsyncExitStack():
            try:
                async with asyncio.timeout(self.config.deadline):
                    got = await self._send(lane.client, messages)
                usage, outcome = got.usage, got.reason or "ok"
                if got.code is not None:
                    raise of_error_reply(got, self.config, answered=self._proof.answered)
                self._check_name(got)
                return got
            except TimeoutError:
                outcome = "deadline"
                raise Passing(f"no reply within {self.config.deadline:g} s") from None
            except (Passing, Rejected, UserError) as error:
                outcome = str(error)
                raise
            finally:
                self._book(key, outcome, usage)

    async def _send(self, client: Any, messages: list[dict[str, str]]) -> Completion:
        """What a 200 came to; everything else is `Passing`, `Rejected`, or a `UserError` that ends the run."""
        import openai

        config = self.config
        try:
            raw = await client.chat.completions.with_raw_response.create(
                model=config.model, messages=messages, extra_body=config.parameters
            )
            return read_completion(raw.http_response.content, config.limit)
        except Unreadable as error:
            return Completion("odd", reason=str(error))
        except openai.APITimeoutError:
            raise Passing("the connection timed out") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, Unreadable):
                return Completion("odd", reason=str(error.__cause__))
            raise Passing(f"no connection: {error.__cause__ or error}") from None
        except openai.APIStatusError as error:
            raise failure_of(error, config, answered=self._proof.answered) from None

    def _check_name(self, got: Completion) -> None:
        """Whether the model that answers is the one asked for: another name is borne once, then it ends the run."""
        if got.ending == "odd" and not got.model:
            return
        if self._accepts(got.model):
            self._proof.answered = True
            return
        self._proof.names[got.model] += 1
        who = f"the model {got.model!r}" if got.model else "a model without a name"
        if self._proof.names[got.model] < 2:
            raise Passing(f"the reply came from {who}, not {self.config.model!r}")
        raise UserError(
            f"The judge's endpoint was asked for {self.config.model!r} and {who} answers.",
            hint=f"If that is the judge you mean, write `accept: [{got.model or '*'!r}]` under `judge`.",
        )

    async def _lane(self, stack: AsyncExitStack) -> _Lane:
        config = self.config
        key = key_of(config.key_variable, self._api_key)
        if not key and config.base_url is None:
            raise UserError(
                f"The judge {config.model} needs an API key.",
                hint=f"Set {config.key_variable}, or use the lexical or a local judge.",
            )
        try:
            from aiolimiter import AsyncLimiter
        except ImportError:
            raise MissingDependency("This judge needs aiolimiter.", hint="pip install 'saelab[judge]'") from None
        client = await stack.enter_async_context(client_of(config.address, key, config.deadline))
        # one call every so often, rather than a minute's worth at once
        rate = None if config.per_minute is None else AsyncLimiter(1, 60 / config.per_minute)
        return _Lane(client, asyncio.Semaphore(config.concurrency), rate)

    def _book(self, key: str, outcome: str, usage: tuple[int, int] | None) -> None:
        prompt, completion = usage or (0, 0)
        old, price = self._spent, self.config.price
        prompt, completion = old.prompt_tokens + prompt, old.completion_tokens + completion
        dollars = None if price is None else (prompt * price[0] + completion * price[1]) / 1e6
        self._spent = Spend(old.calls + 1, old.failed_calls + (outcome != "ok"), prompt, completion, dollars)
        if self.cache is not None:
            self.cache.record(self.config.model, key, outcome, usage)


def accepted(answered: str, asked: str, patterns: Sequence[str] = ()) -> bool:
    """Whether the id in a reply is the one asked for, a dated snapshot of it, or one that a pattern names."""
    if answered == asked or any(fnmatchcase(answered, p) for p in patterns):
        return True
    rest = answered.removeprefix(f"{asked}-")
    return rest != answered and rest.replace("-", "").isdigit()


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
