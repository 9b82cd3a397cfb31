"""A judge behind any OpenAI-compatible endpoint: `openai:gpt-4o-mini`, or a model served at a `base_url`.

The judge's name is the model's id (and the endpoint's host where it is not OpenAI's), and stands beside every value.
When more than `max_missing` of all judgements so far are not ok, the run stops: scores of the rest would be biased.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from saelab.core.errors import JudgeError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Judgement
from saelab.judges.cache import ReplyCache, Spend
from saelab.judges.chat import Ask, ChatClient
from saelab.judges.client import Request
from saelab.judges.endpoint import ChatConfig
from saelab.judges.prompts import questions_of
from saelab.judges.rubric import Parser

# A share of fewer judgements than this says nothing.
LEAST_ASKED = 50
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class CostEstimate:
    """What judging would take, before anything is asked; dollars is None where the price is not given."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None


class OpenAIJudge:
    """Judges by asking a chat model."""

    def __init__(
        self,
        config: ChatConfig,
        *,
        cache: ReplyCache | None = None,
        api_key: str | None = None,
        together: int = 14,
        max_missing: float = 0.02,
        parser: Parser = "strict",
    ):
        """together: detection windows per prompt; 1 asks them singly. max_missing: 1 never stops the run. parser: how
        ratings are read; "axbench" makes every failure 0.0 as that benchmark does, and stands in the judge's name.
        """
        self._client = ChatClient(config, cache=cache, api_key=api_key)
        self._together = together
        self._max_missing = max_missing
        self._parser: Parser = parser
        self._asked = 0
        self._asking = threading.Lock()  # cells side by side may ask the same question: the second finds the reply
        self._failed: dict[str, int] = {}
        host = urlsplit(config.base_url).netloc if config.base_url else ""
        mode = "" if parser == "strict" else f"+{parser}-parser"
        self._name = f"openai:{config.model}" + (f"@{host}" if host else "") + mode

    @property
    def name(self) -> str:
        return self._name

    @property
    def spend(self) -> Spend:
        """What was spent so far."""
        return self._client.spend

    def close(self) -> None:
        """Close the reply cache."""
        if self._client.cache is not None:
            self._client.cache.close()

    def estimate(self, requests: Sequence[Request]) -> CostEstimate:
        """Calls and tokens if nothing is cached and nothing fails; tokens at four characters each."""
        questions, _ = questions_of(requests, self._name, together=self._together)
        config = self._client.config
        prompt = sum(len(q.prompt) for q in questions) // CHARACTERS_PER_TOKEN
        completion = len(questions) * config.limit // 2
        price = config.price
        dollars = None if price is None else (prompt * price[0] + completion * price[1]) / 1e6
        return CostEstimate(len(questions), prompt, completion, dollars)

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """One judgement per request. Raises `JudgeError` where too many are not ok, `UserError` for a refused key."""
        questions, unasked = questions_of(requests, self._name, together=self._together, parser=self._parser)
        asks = [Ask(q.prompt, q.template, q.sample, q.problem_of) for q in questions]
        found = {i: Judgement("missing", None, self._name, reason) for i, reason in unasked.items()}
        with self._asking:
            replies = self._client.ask(asks, progress=progress)
        for question, reply in zip(questions, replies, strict=True):
            if reply.state == "ok" and reply.text is not None:
                answers = question.read(reply.text)
            else:
                state = "missing" if reply.state == "ok" else reply.state
                answers = [Judgement(state, None, self._name, reply.reason)] * len(question.items)
            found |= dict(zip(question.items, answers, strict=True))
        answers = [found[i] for i in range(len(requests))]
        self._check(answers)
        return answers

    def _check(self, answers: Sequence[Judgement]) -> None:
        self._asked += len(answers)
        for answer in answers:
            if answer.state != "ok":
                reason = f"{answer.state}: {answer.reason}"
                self._failed[reason] = self._failed.get(reason, 0) + 1
        failed = sum(self._failed.values())
        if self._asked >= LEAST_ASKED and failed > self._max_missing * self._asked:
            most, count = max(self._failed.items(), key=lambda item: item[1])
            raise JudgeError(
                f"{failed} of {self._asked} judgements by {self._name} are not usable, more than "
                f"{self._max_missing:.0%}; most often ({count} times) {most}.",
                hint="What was judged is kept: mend the cause and run again, or allow more missing judgements.",
            )
