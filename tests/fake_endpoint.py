"""A chat endpoint of our own that follows a fault plan: a judge can be tried against everything that goes wrong.

Its answer is a function of the prompt; by default the truth: which excerpts hold the described word, or the number of
exclamation marks as a rating. `plan(n, body)` names what happens to call n: "ok" or one of FAULTS.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Faults that pass when the call is made again.
FAULTS = (
    "429", "429-seconds", "429-date", "500", "502", "503", "hang-up", "stall", "html", "empty", "truncated",
    "wrong-schema", "no-text", "off-scale", "two-answers", "garbled",
)  # fmt: skip
STALL = 8.0


def truth(prompt: str) -> str:
    """The right reply to a prompt."""
    if "[Excerpts" in prompt:
        word = re.search(r"\[Description[^\n]*\n(.*?)\n", prompt)
        excerpts = re.findall(r"^\[(\d+)\] (.*)$", prompt, re.MULTILINE)
        assert word is not None
        named = [number for number, text in excerpts if word[1] in text]
        return f"I looked for it.\nActive: [[{', '.join(named) or 'none'}]]"
    text = re.search(r"\[Text\]\n(.*)\n\[End of text\]", prompt, re.DOTALL)
    assert text is not None
    return f"It is clear.\nRating: [[{text[1].count('!')}]]"


class FakeEndpoint:
    """Serves on a free port of this machine; `calls` holds the body of each call. Calls wait while `open` is clear."""

    def __init__(
        self,
        plan: Callable[[int, dict[str, Any]], str] = lambda n, body: "ok",
        *,
        model: str = "fake-1",
        answer: Callable[[str], str] = truth,
    ):
        self.plan, self.model, self.answer = plan, model, answer
        self.calls: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["content-length"]))
                if not sent:  # the asker was killed
                    return
                body = json.loads(sent)
                with outer._lock:
                    outer.calls.append(body)
                    what = outer.plan(len(outer.calls) - 1, body)
                    outer.faults.append(what)
                outer.open.wait(300)
                outer._answer(self, what, body)

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, what: str, body: dict[str, Any]) -> None:
        reply = self.answer(next(m["content"] for m in body["messages"] if m["role"] == "user"))
        good = self._completion(reply)
        if what == "hang-up":
            handler.close_connection = True
            handler.connection.close()
            return
        if what == "stall":  # headers, then nothing
            handler.send_response(200)
            handler.send_header("content-length", "1000")
            handler.end_headers()
            handler.wfile.flush()
            time.sleep(STALL)
            handler.close_connection = True
            return
        status = int(what[:3]) if what[:3].isdigit() else 200
        bodies = {
            "html": "<html><body>Gateway</body></html>",
            "empty": "",
            "truncated": good[: len(good) // 2],
            "wrong-schema": json.dumps({"answer": 2}),
            "no-text": self._completion(None),
            "off-scale": self._completion("Rating: [[7]]\nActive: [[99]]"),
            "two-answers": self._completion("Rating: [[0]]\nRating: [[2]]\nActive: [[1]]\nActive: [[2]]"),
            "garbled": self._completion("I would say two out of two."),
            "refusal": self._completion("I'm sorry, but I can't help with that."),
            "wrong-model": self._completion(reply, model="another-model"),
            "snapshot": self._completion(reply, model=f"{self.model}-2024-07-18"),
        }
        error = {"error": {"message": what, "code": "insufficient_quota" if what == "429-quota" else what}}
        text = json.dumps(error) if status != 200 else bodies.get(what, good)
        handler.send_response(status)
        if what == "429-seconds":
            handler.send_header("retry-after", "0.05")
        if what == "429-date":
            handler.send_header("retry-after", formatdate(time.time(), usegmt=True))
        handler.send_header("content-type", "text/html" if what == "html" else "application/json")
        handler.send_header("content-length", str(len(text.encode())))
        with suppress(BrokenPipeError):  # who waited too long has gone
            handler.end_headers()
            handler.wfile.write(text.encode())

    def _completion(self, text: str | None, *, model: str | None = None) -> str:
        message = {"role": "assistant", "content": text, "reasoning_content": "Rating: [[1]] Active: [[1]]"}
        return json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": model or self.model,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
        )
