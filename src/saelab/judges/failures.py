"""What an HTTP failure of a judge's endpoint means: it may pass, it is this question's, or it ends the run.

A failure that would repeat for every question (key, account, model id, a parameter that the model does not take, a
redirect) is a `UserError` with what to change. Knows no transport: it reads a status, an error's fields and a message.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from saelab.core.errors import UserError
from saelab.judges.completion import Completion
from saelab.judges.endpoint import ChatConfig
from saelab.judges.refusals import filtered
from saelab.judges.transport import retry_after

SHOWN = 200
_TOO_LONG = re.compile(r"context[ _](?:length|window)|too long|maximum.{0,40}tokens|reduce the length", re.IGNORECASE)


class Passing(Exception):
    """A failure that may pass. pause: the seconds that the endpoint asked to wait."""

    def __init__(self, reason: str, *, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


class Rejected(Exception):
    """A question that the endpoint does not take: another try would end the same. refused: a content filter did it."""

    def __init__(self, reason: str, *, refused: bool = False):
        super().__init__(reason)
        self.refused = refused


def failure_of(error: Any, config: ChatConfig, *, answered: bool) -> Exception:
    """What an error of the openai library means. answered: the endpoint has answered a call of this form before."""
    headers = error.response.headers
    if 300 <= error.status_code < 400:
        host = urlsplit(headers.get("location", "")).hostname or "the same host"
        return UserError(
            f"The judge's endpoint sends its callers on to {host} (HTTP {error.status_code}); it was not followed.",
            hint="Write the address that answers as base_url, if you trust it with the key.",
        )
    message = f"{error.code or ''} {_message(error)}".strip()[:SHOWN]
    return _meaning(
        error.status_code, message, config, _named(error, config), retry_after(headers.get("retry-after")), answered
    )


def of_error_reply(got: Completion, config: ChatConfig, *, answered: bool) -> Exception:
    """The same for an error that came as a reply with status 200."""
    return _meaning(got.code or 500, got.reason, config, None, None, answered)


def _meaning(
    code: int, message: str, config: ChatConfig, parameter: str | None, pause: float | None, answered: bool
) -> Exception:
    if code in (400, 403, 422) and filtered(message):
        return Rejected(f"HTTP {code}: {message}", refused=True)
    if code in (401, 402, 403) or "insufficient_quota" in message:
        why = "refused the API key" if code == 401 else "does not allow this (key, account or credit)"
        return UserError(
            f"The judge's endpoint {why}: {message}",
            hint=f"Check {config.key_variable} and the account; judgements made so far are kept.",
        )
    if code in (404, 405, 410):
        return UserError(
            f"The judge's endpoint does not know {config.model}: HTTP {code} {message}",
            hint="Check the model's id, and that base_url ends where chat/completions begins (often in /v1).",
        )
    if code in (400, 422) and parameter and not answered and not _TOO_LONG.search(message):
        return UserError(
            f"The model {config.model} does not take {parameter} as it was sent: {message}",
            hint=f"Under `judge`, {_instead(parameter, config)}.",
        )
    if code in (408, 409, 425, 429) or code >= 500:
        slower = " (set per_minute to what the account allows)" if code == 429 else ""
        return Passing(f"HTTP {code}{slower}", pause=pause)
    return Rejected(f"HTTP {code}: {message}")


def _message(error: Any) -> str:
    """The endpoint's own sentence, as one line."""
    body = error.body
    found = body.get("message") if isinstance(body, dict) else None
    text = found if isinstance(found, str) else json.dumps(body) if isinstance(body, dict | list) else error.message
    return " ".join(str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace").split())


def _named(error: Any, config: ChatConfig) -> str | None:
    """The parameter that an error is about: the one in its `param`, else one that its message names."""
    param = getattr(error, "param", None)
    if isinstance(param, str) and param.split(".")[0] in config.parameters:
        return param.split(".")[0]
    message = _message(error)
    for name in sorted(config.parameters, key=len, reverse=True):
        # a word of common speech counts only in quotes: the message may repeat the question
        word = rf"\b{re.escape(name)}\b" if "_" in name else rf"[\"'`]{re.escape(name)}[\"'`]"
        if re.search(word, message):
            return name
    return None


def _instead(parameter: str, config: ChatConfig) -> str:
    """What to write instead."""
    return {
        "max_tokens": f"write `max_completion_tokens: {config.limit}`, which is sent instead",
        "max_completion_tokens": f"leave max_completion_tokens out and write `max_tokens: {config.limit}`",
        "temperature": "write `temperature: null` (none is sent), or the value that it names",
        "reasoning_effort": "leave reasoning_effort out, or write a value that it names",
    }.get(parameter, f"take {parameter!r} out of extra_body")
