"""An endpoint's settings: what is sent is what was written, what cannot be sent is refused without being shown."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fake_endpoint import FakeEndpoint
from saelab.core.errors import UserError
from saelab.judges.catalogue import JudgeConfig
from saelab.judges.chat import Ask, ChatClient, accepted
from saelab.judges.client import Request
from saelab.judges.endpoint import ChatConfig
from saelab.judges.openai_compatible import OpenAIJudge

SECRET = "sk-canary-4711"


def sent(**settings: Any) -> dict[str, Any]:
    """The body of one call."""
    endpoint = FakeEndpoint()
    try:
        OpenAIJudge(ChatConfig(model="fake-1", base_url=endpoint.url, **settings)).judge([Request("fluency", "a")])
        return endpoint.calls[0]
    finally:
        endpoint.close()


def test_parameters_are_data() -> None:
    plain = sent()
    assert (plain["temperature"], plain["max_tokens"]) == (0.0, 300) and "reasoning_effort" not in plain
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    own = sent(temperature=None, max_completion_tokens=900, reasoning_effort="low", extra_body=off, system="You rate.")
    assert "temperature" not in own and "max_tokens" not in own
    assert own["max_completion_tokens"] == 900 and own["reasoning_effort"] == "low"
    assert own["chat_template_kwargs"] == {"enable_thinking": False}
    assert own["messages"][0] == {"role": "system", "content": "You rate."}


def test_all_that_is_sent_is_in_the_key() -> None:
    ask = Ask("a question", "fluency/1", 0, lambda text: None)
    changes: list[dict[str, Any]] = [
        {}, {"temperature": None}, {"max_tokens": 10}, {"max_completion_tokens": 10}, {"reasoning_effort": "low"},
        {"extra_body": {"top_k": 1}}, {"system": "x"}, {"base_url": "http://localhost/v1"}, {"model": "other"},
    ]  # fmt: skip
    keys = {ChatClient(ChatConfig.parse({"model": "fake-1"} | change)).key(ask) for change in changes}
    assert len(keys) == len(changes)
    identities = [JudgeConfig.parse({"name": "openai:fake-1"} | c).identity for c in changes if "model" not in c]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert JudgeConfig.parse({"name": "local:x", "system": "y"}).identity != JudgeConfig(name="local:x").identity


def test_axbench_reading_is_a_setting_that_the_judge_and_its_cells_are_named_by(tmp_path: Path) -> None:
    """The benchmark's parser can be asked for in a study file; nothing that it read is taken for the strict one's."""
    strict, lenient = (
        JudgeConfig.parse({"name": "openai:fake-1", "base_url": "http://localhost/v1", "parser": parser})
        for parser in ("strict", "axbench")
    )
    assert strict.identity != lenient.identity
    names = [config.open(tmp_path / "replies.sqlite").name for config in (strict, lenient)]
    assert names[1] == f"{names[0]}+axbench-parser"


def test_names_that_may_answer() -> None:
    assert accepted("gpt-4o", "gpt-4o") and accepted("gpt-4o-2024-08-06", "gpt-4o")
    assert not accepted("gpt-4o-mini", "gpt-4o") and not accepted("", "gpt-4o")
    assert accepted("openai/gpt-4o", "gpt-4o", ["*/gpt-4o"]) and not accepted("x/gpt-4", "gpt-4o", ["*/gpt-4o"])


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": f"https://user:{SECRET}@host/v1"},
        {"base_url": f"https://{SECRET}@host/v1"},
        {"base_url": f"https://host/v1?api_key={SECRET}"},
        {"base_url": f"https://host/v1#{SECRET}"},
        {"base_url": f"https://[{SECRET}/v1"},
        {"base_url": f"ftp://host/{SECRET}"},
        {"base_url": f"https://host:{SECRET}/v1"},
        {"key_variable": SECRET},
        {"extra_body": {"api_key": SECRET}},
        {"extra_body": {"Authorization": SECRET}},
        {"extra_body": {"model": SECRET}},
    ],
)
def test_what_may_hold_a_key_is_refused_without_being_shown(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        JudgeConfig.parse({"name": "openai:m"} | settings)
    assert SECRET not in str(caught.value)
    with pytest.raises(ValidationError) as shown:
        ChatConfig(model="m", **settings)
    assert SECRET not in str(shown.value)


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"  {SECRET}\t", f"{SECRET}é", f"{SECRET} x", f"a\n{SECRET}", "пароль"])
def test_a_key_is_stripped_or_refused_at_the_door(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    endpoint = FakeEndpoint()
    monkeypatch.setitem(os.environ, "OPENAI_API_KEY", key)
    judge = OpenAIJudge(ChatConfig(model="fake-1", base_url=endpoint.url, backoff=0.001))
    try:
        if key.strip() == SECRET:
            assert judge.judge([Request("fluency", "a")])[0].state == "ok"
        else:
            with pytest.raises(UserError, match="OPENAI_API_KEY holds blanks") as caught:
                judge.judge([Request("fluency", "a")])
            assert SECRET not in str(caught.value) and not endpoint.calls
    finally:
        endpoint.close()


def test_the_environment_does_not_choose_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_BASE_URL would make the same study another judge's."""
    endpoint = FakeEndpoint()
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # so that nothing leaves this machine
    try:
        judge = OpenAIJudge(ChatConfig(model="fake-1", attempts=1, deadline=5), api_key=SECRET)
        assert judge.judge([Request("fluency", "a")])[0].state == "missing" and not endpoint.calls
    finally:
        endpoint.close()
