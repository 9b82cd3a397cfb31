"""One reply of a chat endpoint, read from its bytes: the answer, or the state that stands for it. Never an exception.

Whatever the bytes are, what comes out is a `Completion`: its text where there is one to be read, else `refused` (a
refusal in its own field, a content filter), `cut` (the budget ran out) or `odd` (no chat completion at all). Tokens are
booked in each case. Thinking is no answer: it is taken off, and a reply of nothing else is none.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from saelab.judges.refusals import filtered

Ending = Literal["text", "refused", "cut", "odd"]

_TAGS = r"think|thinking|thought|reasoning"
_THOUGHT = re.compile(
    rf"<({_TAGS})>.*?</\1>|\[THINK\].*?\[/THINK\]|◁think▷.*?◁/think▷|"
    r"<\|channel\|>analysis.*?(?:<\|end\|>|(?=<\|channel\|>final))",
    re.IGNORECASE | re.DOTALL,
)
_CLOSED = re.compile(rf".*(?:</(?:{_TAGS})>|\[/THINK\]|◁/think▷)", re.IGNORECASE | re.DOTALL)
_OPEN = re.compile(rf"(?:<(?:{_TAGS})>|\[THINK\]|◁think▷|<\|channel\|>analysis).*", re.IGNORECASE | re.DOTALL)
_FINAL = re.compile(r"<\|(?:start|channel|message|end|return)\|>(?:assistant|final)?")

MOST_TOKENS = 10**9


@dataclass(frozen=True)
class Completion:
    """What a reply came to. text: of an ending "text"; reason: why there is none. usage: (prompt, completion) tokens.

    code: the number of an error that came as a reply (some proxies send those with status 200).
    """

    ending: Ending
    model: str = ""
    text: str = ""
    reason: str = ""
    usage: tuple[int, int] | None = None
    code: int | None = None


def read_completion(body: bytes, limit: int | None = None) -> Completion:
    """Read the bytes of a reply. limit: the most tokens that were asked for, for the sentence about a cut one."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):  # also broken encodings and numbers of thousands of digits
        return Completion("odd", reason=f"the reply is not JSON: {_shown(body.decode('utf-8', 'replace'))}")
    if not isinstance(data, dict):
        return Completion("odd", reason="the reply is not a chat completion")
    usage, model = _usage(data.get("usage")), data.get("model")
    model = _clean(model)[:200] if isinstance(model, str) else ""
    choice = _first(data.get("choices"))
    message = choice.get("message")
    if not isinstance(message, dict):
        error = data.get("error")
        if isinstance(error, dict | str) and error:
            return Completion("odd", model, reason=_error(error), usage=usage, code=_code(error))
        return Completion("odd", model, reason="the reply is not a chat completion", usage=usage)
    ending, text = choice.get("finish_reason"), _text(message.get("content"))
    if refusal := _text(message.get("refusal")) or _part(message.get("content"), "refusal"):
        return Completion("refused", model, reason=_shown(refusal), usage=usage)
    if isinstance(ending, str) and filtered(ending):
        return Completion("refused", model, reason=f"stopped by the endpoint: {_clean(ending)[:40]}", usage=usage)
    answer = without_thinking(text)
    if ending in ("length", "max_tokens", "MAX_TOKENS"):
        left = "the answer" if answer else "thinking: no answer was begun"
        budget = f" of {limit} tokens" if limit is not None else ""
        return Completion("cut", model, reason=f"the budget{budget} ran out in {left}", usage=usage)
    if not answer:
        what = "thinks and does not answer" if text.strip() else "has no text"
        what = "calls a tool and has no text" if not text.strip() and message.get("tool_calls") else what
        return Completion("odd", model, reason=f"the reply {what}", usage=usage)
    return Completion("text", model, answer, usage=usage)


def without_thinking(text: str) -> str:
    """The answer in a reply: thinking taken off, closed or not, also where its opening mark stood in the prompt."""
    text = _THOUGHT.sub("", text)
    text = _CLOSED.sub("", text)
    return _FINAL.sub("", _OPEN.sub("", text)).strip()


def _first(choices: Any) -> dict[str, Any]:
    found = choices[0] if isinstance(choices, list) and choices else None
    return found if isinstance(found, dict) else {}


def _text(content: Any) -> str:
    """The text of a message's content, which some endpoints send in parts."""
    return _clean(content) if isinstance(content, str) else _part(content, "text")


def _part(content: Any, kind: str) -> str:
    """The parts of one kind, joined."""
    parts = content if isinstance(content, list) else []
    found = [p.get(kind) for p in parts if isinstance(p, dict) and p.get("type") in (kind, f"output_{kind}")]
    return _clean("".join(f for f in found if isinstance(f, str)))


def _usage(found: Any) -> tuple[int, int] | None:
    """Tokens, where both are counts that a reply can have."""
    if not isinstance(found, dict):
        return None
    counts = [found.get("prompt_tokens"), found.get("completion_tokens")]
    match counts:
        case [int(prompt), int(completion)] if all(type(c) is int and 0 <= c < MOST_TOKENS for c in counts):
            return prompt, completion
    return None


def _error(error: dict[str, Any] | str) -> str:
    """The sentence of an error object."""
    message = error if isinstance(error, str) else error.get("message")
    return f"the endpoint replied with an error: {_shown(message if isinstance(message, str) else 'no message')}"


def _code(error: dict[str, Any] | str) -> int | None:
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else None


def _clean(text: str) -> str:
    """Text that can be written: half characters (lone surrogates) become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _shown(text: str, most: int = 200) -> str:
    """The beginning of a text as one line."""
    return " ".join(_clean(text[: 4 * most]).split())[:most]
