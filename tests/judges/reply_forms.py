"""What an endpoint may send back, and what has to become of it: the table of docs/judge-replies.md and its test.

`python tests/judges/reply_forms.py` prints the table. A form is bytes on the wire; `outcome` is the state of the one
question (with its value), or "ends the run".
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

ENDS = "ends the run"
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
ATTEMPTS = 8


@dataclass(frozen=True)
class Form:
    """name: as the page says it. calls: what one question costs. booked: whether its tokens are counted."""

    name: str
    outcome: str
    calls: int
    booked: bool
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    task: str = "fluency"
    wire: str = ""  # "stall", "hang-up", "short", or a whole response in latin-1


def reply(text: Any = None, *, finish: str | None = "stop", model: str | None = "fake-1", **other: Any) -> bytes:
    message = {"role": "assistant", "content": text} | other.pop("message", {})
    data = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": USAGE,
    }
    return json.dumps(data | other).encode()


def error(message: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message} | fields}).encode()


def said(name: str, text: Any, outcome: str, calls: int = 1, **other: Any) -> Form:
    return Form(name, outcome, calls, True, reply(text, **other))


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()


GOOD = reply("It reads well.\nRating: [[2]]")
ODD = 3  # calls for what is no completion
HUGE = "9" * 5000


def _answers() -> list[Form]:
    return [
        said("`Rating: [[2]]` after an explanation", "It reads well.\nRating: [[2]]", "ok 2"),
        said("in bold", "**Rating: [[1]]**", "ok 1"),
        said("in small letters, without brackets", "rating: 1", "ok 1"),
        said("the same line twice", "Rating: [[1]]\nIn short:\nRating: [[1]]", "ok 1"),
        said("an explanation that names another rating", "A rating: 2 needs more.\nRating: [[1]]", "ok 1"),
        said("an explanation that quotes a refusal", 'It says "I\'m sorry, I can\'t".\nRating: [[2]]', "ok 2"),
        said("an answer that opens with `I cannot find`", "I cannot find a mistake.\nRating: [[2]]", "ok 2"),
        said("two lines that differ", "Rating: [[0]]\nRating: [[2]]", "unparsed", 2),
        said("off the scale", "Rating: [[3]]", "unparsed", 2),
        said("negative", "Rating: [[-1]]", "unparsed", 2),
        said("a fraction, `1.5`", "Rating: [[1.5]]", "unparsed", 2),
        said("a fraction, `2/2`", "Rating: 2/2", "unparsed", 2),
        said("a rating of 5,000 digits", f"Rating: [[{HUGE}]]", "unparsed", 2),
        said("digits of another script", "Rating: [[\uff12]]", "unparsed", 2),
        said("words without a number", "I would say two out of two.", "unparsed", 2),
        said("half a character (a lone surrogate) beside the answer", "\ud83d\nRating: [[2]]", "ok 2"),
        said("half a character and no answer", "\ud83d", "unparsed", 2),
        said("parts of type text", [{"type": "text", "text": "Rating: "}, {"type": "text", "text": "[[2]]"}], "ok 2"),
        said("parts: thinking, then text",
             [{"type": "thinking", "thinking": "Rating: [[0]]"}, {"type": "text", "text": "Rating: [[2]]"}], "ok 2"),
        Form("detection: `Active: [[1]]`", "ok 1", 1, True, reply("Active: [[1]]"), task="detection"),
        Form("detection: `Active: [[none]]`", "ok 0", 1, True, reply("Active: [[none]]"), task="detection"),
        Form("detection: an excerpt that was not shown", "unparsed", 2, True, reply("Active: [[99]]"),
             task="detection"),
        Form("detection: two lines that differ", "unparsed", 2, True, reply("Active: [[1]]\nActive: [[none]]"),
             task="detection"),
        Form("detection: words", "unparsed", 2, True, reply("Active: [[the first]]"), task="detection"),
        Form("comparison: `Answer: [[3]]`", "ok 3", 1, True, reply("Answer: [[3]]"), task="comparison"),
        Form("comparison: off the scale", "unparsed", 2, True, reply("Answer: [[4]]"), task="comparison"),
        Form("comparison: a refusal", "refused", 1, True, reply("I’m sorry, I can’t."), task="comparison"),
    ]  # fmt: skip


def _thinking() -> list[Form]:
    late = "It is dull, so 0.</think>\nRating: [[1]]"
    harmony = (
        "<|channel|>analysis<|message|>Rating: [[0]]<|end|><|start|>assistant<|channel|>final<|message|>Rating: [[2]]"
    )
    return [
        said("a think block that names another rating", "<think>Rating: [[2]]</think>\nRating: [[1]]", "ok 1"),
        said("a think block whose opening stood in the prompt", late, "ok 1"),
        said("`[THINK]` ... `[/THINK]`", "[THINK]Rating: [[0]][/THINK]Rating: [[2]]", "ok 2"),
        said("channels (`analysis`, `final`)", harmony, "ok 2"),
        said("a think block, then no answer", "<think>Rating: [[2]]</think> I cannot say.", "refused"),
        said("a think block and nothing else", "<think>Rating: [[2]]</think>", "missing", 2),
        said("a think block that is not closed", "<think>Rating: [[2]]", "missing", 2),
        said("`finish_reason: length`, all of it thinking", None, "unparsed", finish="length",
             message={"reasoning_content": "Rating: [[2]]"}),
        said("`finish_reason: length` with a rating", "Rating: [[1", "unparsed", finish="length"),
    ]  # fmt: skip


def _refusals() -> list[Form]:
    return [
        said("`I'm sorry, but I can't`", "I'm sorry, but I can't help with that.", "refused"),
        said("the same with curly apostrophes", "I’m sorry, but I can’t help with that.", "refused"),
        said("`I can’t` alone, curly", "I can’t.", "refused"),
        said("`I'm unable to`", "I'm unable to rate this text.", "refused"),
        said("`As an AI`", "As an AI language model, I cannot evaluate this.", "refused"),
        said("a refusal with a rating", "I'm sorry, I can't rate that. Still:\nRating: [[0]]", "refused"),
        said("in Chinese", "很抱歉，我无法评价这段文字。", "refused"),
        said("in Russian", "Извините, я не могу помочь с этим.", "refused"),
        said("the `refusal` field", None, "refused", message={"refusal": "I can't help with that."}),
        said("the `refusal` field beside a rating", "Rating: [[0]]", "refused", message={"refusal": "No."}),
        said("a part of type refusal", [{"type": "refusal", "refusal": "No."}], "refused"),
        said("`finish_reason: content_filter`", None, "refused", finish="content_filter"),
        said("the same with a rating", "Rating: [[1]]", "refused", finish="content_filter"),
        Form("HTTP 400, content filter", "refused", 1, False, error("blocked", code="content_filter"), 400),
        Form("HTTP 403, flagged by moderation", "refused", 1, False, error("Your input was flagged."), 403),
    ]


def _no_completion() -> list[Form]:
    deep, number = b'{"choices":' + b"[" * 200_000, b'"created": ' + HUGE.encode()
    return [
        said("`content: null`", None, "missing", 2),
        said("no words", " \n", "missing", 2),
        said("a number as content", 2, "missing", 2),
        said("a call of a tool", None, "missing", 2, message={"tool_calls": [{"id": "1"}]}),
        said("`choices: []`", "", "missing", 2, choices=[]),
        said("`choices: null`", "", "missing", 2, choices=None),
        said("`choices` that is an object", "", "missing", 2, choices={"a": 1}),
        said("a choice that is text", "", "missing", 2, choices=["Rating: [[2]]"]),
        Form("another object", "missing", ODD, False, b'{"answer": 2}'),
        Form("a list", "missing", ODD, False, b"[1, 2]"),
        Form("`null`", "missing", ODD, False, b"null"),
        Form("a page of HTML", "missing", ODD, False, b"<html>Gateway</html>", headers={"content-type": "text/html"}),
        Form("nothing", "missing", ODD, False, b""),
        Form("half of a reply", "missing", ODD, False, GOOD[: len(GOOD) // 2]),
        Form("a stream of events", "missing", ODD, False, b"data: " + GOOD + b"\n\ndata: [DONE]\n"),
        Form("bytes that are no text", "missing", ODD, False, b"\xff\xfe\xfa" * 40),
        Form("lists 200,000 deep", "missing", ODD, False, deep),
        Form("an integer of 5,000 digits", "missing", ODD, False, GOOD.replace(b'"created": 0', number)),
        Form("10 MB", "missing", ODD, False, GOOD[:-1] + b', "x": "' + b"x" * 10_000_000 + b'"}'),
        Form("gzip that unpacks to 256 MB", "missing", ODD, False, bomb(256), headers={"content-encoding": "gzip"}),
        Form("gzip that is none", "missing", ODD, False, GOOD, headers={"content-encoding": "gzip"}),
        Form("gzip cut short", "missing", ODD, False, gzip.compress(GOOD)[:-20], headers={"content-encoding": "gzip"}),
        Form("packed as br", "missing", ODD, False, GOOD, headers={"content-encoding": "br"}),
        Form("an error with status 200, no code", "missing", ODD, False, error("overloaded")),
    ]  # fmt: skip


def _odd_but_read() -> list[Form]:
    def counted(name: str, usage: str) -> Form:
        return Form(name, "ok 2", 1, False, GOOD.replace(json.dumps(USAGE).encode(), usage.encode()))

    return [
        Form("UTF-16", "ok 2", 1, True, GOOD.decode().encode("utf-16")),
        Form("UTF-8 with a BOM", "ok 2", 1, True, b"\xef\xbb\xbf" + GOOD),
        Form("an encoding that is none", "ok 2", 1, True, GOOD, headers={"content-type": "text/json; charset=hex"}),
        Form("gzip", "ok 2", 1, True, gzip.compress(GOOD), headers={"content-encoding": "gzip"}),
        counted("`usage` that is a list", "[1, 2]"),
        counted("`usage` that is text", '"many"'),
        counted("`usage: null`", "null"),
        counted("`usage` of 10^30 tokens", '{"prompt_tokens": 1' + "0" * 30 + ', "completion_tokens": 1}'),
        counted("`usage` below zero", '{"prompt_tokens": -5, "completion_tokens": 1}'),
        counted("`usage` of NaN", '{"prompt_tokens": NaN, "completion_tokens": true}'),
        Form("a dated snapshot of the model", "ok 2", 1, True, reply("Rating: [[2]]", model="fake-1-2026-01-31")),
        Form("another name that `accept` allows", "ok 2", 1, True, reply("Rating: [[2]]", model="eu/fake-1:prod"),
             settings={"accept": ["eu/*"]}),
    ]  # fmt: skip


def _failures() -> list[Form]:
    kind = {"settings": {"extra_body": {"top_k": 1}}}
    long = "'max_tokens' is too large: 300. This model's maximum context length is 2048 tokens."
    return [
        *(Form(f"HTTP {n}", "missing", ATTEMPTS, False, error("later"), n) for n in (408, 429, 500, 502, 503, 529)),
        Form("HTTP 500 with gzip that unpacks to 64 MB", "missing", ATTEMPTS, False, bomb(64), 500,
             {"content-encoding": "gzip"}),
        Form("an error with status 200 and code 429", "missing", ATTEMPTS, False, error("later", code=429)),
        Form("headers, then silence", "missing", ATTEMPTS, False, wire="stall", settings={"deadline": 0.25}),
        Form("a dropped connection", "missing", ATTEMPTS, False, wire="hang-up"),
        Form("fewer bytes than announced", "missing", ATTEMPTS, False, GOOD, wire="short"),
        Form("no HTTP", "missing", ATTEMPTS, False, wire="220 mail.example ESMTP\r\n"),
        Form("a header of 200 kB", "missing", ATTEMPTS, False, wire=f"HTTP/1.1 200 OK\r\nx: {'y' * 200_000}\r\n\r\n"),
        Form("HTTP 400 about this question", "missing", 1, False, error("cannot be processed"), 400),
        Form("HTTP 400, the question is too long", "missing", 1, False, error(long, param="max_tokens"), 400),
        Form("HTTP 413", "missing", 1, False, b"too large", 413),
        Form("HTTP 400 that names `max_tokens`", ENDS, 1, False,
             error("Unsupported parameter: 'max_tokens'.", code="unsupported_parameter", param="max_tokens"), 400),
        Form("HTTP 400 that names `temperature`", ENDS, 1, False,
             error("Unsupported value: 'temperature' does not support 0.", param="temperature"), 400),
        Form("HTTP 422 that names a field of `extra_body`", ENDS, 1, False,
             json.dumps({"detail": [{"loc": ["body", "top_k"], "msg": "not permitted"}]}).encode(), 422, **kind),
        Form("HTTP 401", ENDS, 1, False, error("Incorrect API key"), 401),
        Form("HTTP 402", ENDS, 1, False, error("Insufficient balance"), 402),
        Form("HTTP 403", ENDS, 1, False, error("Country not supported"), 403),
        Form("HTTP 404", ENDS, 1, False, error("no such model"), 404),
        Form("HTTP 405", ENDS, 1, False, b"<html>", 405),
        Form("HTTP 429, the account is empty", ENDS, 1, False, error("quota", code="insufficient_quota"), 429),
        Form("an error with status 200 and code 401", ENDS, 1, False, error("no", code=401)),
        Form("a redirect to another host", ENDS, 1, False, b"", 307, {"location": "http://elsewhere.example/v1"}),
        Form("another model's name", ENDS, 2, True, reply("Rating: [[2]]", model="another")),
        Form("no model's name", ENDS, 2, True, reply("Rating: [[2]]", model=None)),
    ]  # fmt: skip


SECTIONS = {
    "Answers": _answers(),
    "Thinking and spent budgets": _thinking(),
    "Refusals and filters": _refusals(),
    "No completion": _no_completion(),
    "Odd, and read all the same": _odd_but_read(),
    "Failures": _failures(),
}
FORMS = [form for forms in SECTIONS.values() for form in forms]


def table() -> str:
    """The tables of the page."""
    lines = []
    for title, forms in SECTIONS.items():
        lines += [f"## {title}", "", "| what comes back | state | calls | tokens booked |", "|---|---|---|---|"]
        lines += [f"| {f.name} | {f.outcome} | {f.calls} | {'yes' if f.booked else 'no'} |" for f in forms]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
