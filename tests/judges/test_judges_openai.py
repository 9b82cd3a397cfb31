"""A judge behind an endpoint that misbehaves: no score is invented, nothing paid twice, and it says when it gives up.

(T10 to T16 of the reliability plan.)
"""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_endpoint import FAULTS, FakeEndpoint
from saelab.core.errors import JudgeError, UserError
from saelab.core.records import Description, Judgement
from saelab.judges.cache import ReplyCache
from saelab.judges.client import Request
from saelab.judges.endpoint import ChatConfig
from saelab.judges.openai_compatible import OpenAIJudge
from saelab.judges.transport import retry_after

Serve = Callable[..., FakeEndpoint]


@pytest.fixture
def serve() -> Iterator[Serve]:
    made: list[FakeEndpoint] = []

    def start(*args: Any, **kwargs: Any) -> FakeEndpoint:
        made.append(FakeEndpoint(*args, **kwargs))
        return made[-1]

    yield start
    for endpoint in made:
        endpoint.close()


def judge_at(endpoint: FakeEndpoint, *, cache: ReplyCache | None = None, **settings: Any) -> OpenAIJudge:
    own = {k: settings.pop(k) for k in ("together", "max_missing") if k in settings}
    base = {"model": "fake-1", "base_url": endpoint.url, "deadline": 60.0, "backoff": 0.002, "concurrency": 24}
    return OpenAIJudge(ChatConfig(**(base | settings)), cache=cache, api_key="sk-planted-key", **own)


def ratings(n: int) -> list[Request]:
    return [Request("fluency", text=f"text {i} " + "!" * (i % 3)) for i in range(n)]


def windows(n: int, word: str = "cat") -> list[Request]:
    description = Description(word)
    return [
        Request("detection", tokens=(f" {i}", f" {word}" if i % 3 == 0 else " dog"), description=description)
        for i in range(n)
    ]


def values(answers: list[Judgement]) -> list[float | None]:
    return [a.value for a in answers]


def test_a_healthy_endpoint_is_asked_once_per_question(serve: Serve) -> None:
    endpoint = serve()
    judge = judge_at(endpoint)
    assert values(judge.judge(ratings(9))) == [0, 1, 2] * 3
    assert len(endpoint.calls) == 9
    assert values(judge.judge(windows(20))) == [float(i % 3 == 0) for i in range(20)]
    assert len(endpoint.calls) == 9 + 2  # 14 windows and 6
    assert judge.spend.calls == 11 and judge.spend.prompt_tokens == 1100
    assert judge.name.startswith("openai:fake-1@127.0.0.1")


FORM = ("off-scale", "two-answers", "garbled")  # readable, but not in the form that was asked for
PAID = (*FORM, "no-text")  # booked by the endpoint, and so asked for once more only


@pytest.mark.parametrize("fault", [f for f in FAULTS if f not in PAID])
def test_each_fault_passes_and_leaves_no_trace_in_the_values(serve: Serve, fault: str) -> None:
    endpoint = serve(lambda n, body: fault if n < 2 else "ok")
    judge = judge_at(endpoint, deadline=2.0 if fault == "stall" else 60.0)
    assert values(judge.judge(ratings(6))) == [0, 1, 2] * 2
    assert endpoint.faults.count(fault) == 2 and (len(endpoint.calls) == 8 or fault == "stall")


@pytest.mark.parametrize("fault", FORM)
def test_a_reply_of_the_wrong_form_is_asked_for_once_more(serve: Serve, fault: str) -> None:
    endpoint = serve(lambda n, body: fault if len(body["messages"]) == 1 else "ok")
    judge = judge_at(endpoint)
    assert values(judge.judge(ratings(3) + windows(6))) == [0, 1, 2] + [1, 0, 0] * 2
    assert len(endpoint.calls) == 2 * 4


@pytest.mark.parametrize("fault", ["500", "html", "no-text", "off-scale", "two-answers", "garbled"])
def test_a_fault_that_stays_is_a_state_with_a_reason_and_no_value(serve: Serve, fault: str) -> None:
    endpoint = serve(lambda n, body: fault)
    for answer in judge_at(endpoint, attempts=3).judge(ratings(2) + windows(2)):
        assert answer.state in ("missing", "unparsed") and answer.value is None and answer.reason
    assert len(endpoint.calls) == (2 if fault in PAID else 3) * 3


def test_a_refusal_is_its_own_state_and_is_not_argued_with(serve: Serve) -> None:
    endpoint = serve(lambda n, body: "refusal")
    answers = judge_at(endpoint).judge(ratings(1) + windows(3))
    assert [a.state for a in answers] == ["refused"] * 4
    assert len(endpoint.calls) == 2


def test_a_third_of_faults_changes_no_value_and_costs_at_most_half_more(serve: Serve) -> None:
    """30 % of calls fail, every kind of fault among them: all ok values equal the fault-free run."""
    generator = np.random.default_rng(0)
    plan = [str(generator.choice(FAULTS)) if u < 0.3 else "ok" for u in generator.random(4000)]
    endpoint = serve(lambda n, body: plan[n])
    requests = ratings(300) + [
        Request("concept", text="!" * (i % 3), description=Description(f"c{i}")) for i in range(99)
    ]
    clean = values(judge_at(serve()).judge(requests))
    judge = judge_at(endpoint, deadline=4.0)
    answers = judge.judge(requests)
    assert all(a.value == b for a, b in zip(answers, clean, strict=True) if a.state == "ok")
    assert sum(a.state != "ok" for a in answers) <= 0.02 * len(requests)
    assert len(endpoint.calls) <= 1.5 * len(requests)
    assert len(endpoint.calls) <= judge.spend.calls <= 1.5 * len(requests)


def test_too_many_missing_stop_the_run_with_the_reason(serve: Serve) -> None:
    endpoint = serve(lambda n, body: "ok" if "text 1" in body["messages"][0]["content"] else "500")
    with pytest.raises(JudgeError, match=r"of 60 judgements by openai:fake-1.*HTTP 500"):
        judge_at(endpoint, attempts=2).judge(ratings(60))
    answers = judge_at(endpoint, attempts=2, max_missing=1.0).judge(ratings(60))
    assert {a.state for a in answers} == {"ok", "missing"}


@pytest.mark.parametrize("fault", ["401", "403", "429-quota", "404"])
def test_a_refused_key_or_empty_account_stops_at_once_with_one_message(serve: Serve, fault: str) -> None:
    endpoint = serve(lambda n, body: fault)
    judge = judge_at(endpoint, concurrency=4)
    for _ in range(2):  # the second cell of a run that asks hears the same and costs nothing
        with pytest.raises(UserError) as caught:
            judge.judge(ratings(200))
    assert len(endpoint.calls) == 1
    assert "sk-planted-key" not in str(caught.value)


def test_nothing_listening_is_missing(serve: Serve) -> None:
    endpoint = serve()
    endpoint.close()
    answers = judge_at(endpoint, attempts=2).judge(ratings(2))
    assert [a.state for a in answers] == ["missing"] * 2 and "no connection" in (answers[0].reason or "")


def test_one_bad_item_does_not_stop_the_others(serve: Serve) -> None:
    endpoint = serve(lambda n, body: "400" if "text 1 " in body["messages"][0]["content"] else "ok")
    answers = judge_at(endpoint).judge(ratings(3))
    assert [a.state for a in answers] == ["ok", "missing", "ok"] and len(endpoint.calls) == 3


def test_a_dated_snapshot_is_the_model_asked_for(serve: Serve) -> None:
    assert judge_at(serve(lambda n, body: "snapshot")).judge(ratings(1))[0].state == "ok"


def test_a_key_is_asked_for_only_at_openai(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="needs an API key"):
        OpenAIJudge(ChatConfig(model="gpt-4o-mini")).judge(ratings(1))
    endpoint = serve()
    local = OpenAIJudge(ChatConfig(model="fake-1", base_url=endpoint.url))
    assert local.judge(ratings(1))[0].state == "ok"


def test_the_estimate_counts_prompts_before_anything_is_asked(serve: Serve) -> None:
    endpoint = serve()
    estimate = judge_at(endpoint, price=(1.0, 2.0)).estimate(ratings(5) + windows(28))
    assert estimate.calls == 7 and estimate.prompt_tokens > 200 and estimate.dollars is not None
    assert not endpoint.calls


def test_it_works_where_a_loop_already_runs(serve: Serve) -> None:
    judge = judge_at(serve())

    async def notebook() -> list[Judgement]:
        return judge.judge(ratings(2))

    assert values(asyncio.run(notebook())) == [0, 1]


# --- the cache ---


def test_the_same_question_is_one_call_and_any_change_is_another(serve: Serve, tmp_path: Path) -> None:
    endpoint = serve()
    cache = ReplyCache(tmp_path / "judge.sqlite")
    one = Request("fluency", text="hello!")
    assert values(judge_at(endpoint, cache=cache).judge([one, one])) == [1, 1]
    assert values(judge_at(endpoint, cache=cache).judge([one])) == [1]
    assert len(endpoint.calls) == 1
    changes: list[tuple[Request, dict[str, Any]]] = [
        (Request("fluency", text="hello!", sample=1), {}),
        (Request("fluency", text="hello!!"), {}),
        (Request("concept", text="hello!", description=Description("x")), {}),
        (one, {"temperature": 0.7}),
        (one, {"max_tokens": 10}),
    ]
    for n, (request, settings) in enumerate(changes, start=2):
        judge_at(endpoint, cache=cache, **settings).judge([request])
        assert len(endpoint.calls) == n
    other = serve(model="fake-2")
    judge_at(other, cache=cache, model="fake-2").judge([one])
    assert len(other.calls) == 1
    assert cache.spend(price=(1.0, 10.0)).dollars == pytest.approx((7 * 100 + 7 * 100) / 1e6)


def test_garbled_replies_are_not_frozen_and_no_key_is_written(serve: Serve, tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "judge.sqlite")
    bad = serve(lambda n, body: "garbled")
    assert judge_at(bad, cache=cache).judge(ratings(1))[0].state == "unparsed"
    bad.plan = lambda n, body: "ok"
    assert judge_at(bad, cache=cache).judge(ratings(1))[0].state == "ok"
    stored = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"sk-planted-key" not in stored and b"Rating" in stored


def test_replies_survive_sigkill(serve: Serve, tmp_path: Path) -> None:
    """Killed in the middle, asked again: only what was in flight is paid twice."""
    endpoint = serve()
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from saelab.judges.cache import ReplyCache
        from saelab.judges.endpoint import ChatConfig
        from saelab.judges.client import Request
        from saelab.judges.openai_compatible import OpenAIJudge
        config = ChatConfig(model="fake-1", base_url="{endpoint.url}", concurrency=2)
        judge = OpenAIJudge(config, cache=ReplyCache(Path("{tmp_path}/judge.sqlite")))
        judge.judge([Request("fluency", text=f"text {{i}} " + "!" * (i % 3)) for i in range(400)])
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)])
    until = time.monotonic() + 60
    while len(endpoint.calls) < 40 and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(endpoint.calls)
    assert 40 <= before < 400
    judge = judge_at(endpoint, cache=ReplyCache(tmp_path / "judge.sqlite"))
    assert values(judge.judge(ratings(400)))[:3] == [0, 1, 2]
    assert len(endpoint.calls) - before <= 400 - before + 3


def test_retry_after_reads_seconds_and_dates() -> None:
    assert retry_after("1.5") == 1.5 and retry_after("9999") == 120
    assert retry_after(None) is None and retry_after("soon") is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
