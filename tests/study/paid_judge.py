"""A paid judge of our own on this machine: it answers every question in good form and keeps what it was asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from saelab.core.config import digest_of

MODEL = "fake-1"


class PaidJudge:
    """`asked` holds the content of every call, in order; while `shut` is set, calls wait."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["content-length"]))
                if not sent:
                    return
                body = json.loads(sent)
                with lock:
                    outer.asked.append(json.dumps(body["messages"]))
                outer.open.wait(300)
                text = json.dumps(_completion(body["messages"][-1]["content"])).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def settings(self) -> dict[str, Any]:
        """The judge of a study file that asks here."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        return {"name": f"openai:{MODEL}", "base_url": url, "concurrency": 4, "deadline": 280.0}

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


def _completion(prompt: str) -> dict[str, Any]:
    """A reply that is a function of the question alone."""
    number = int(digest_of(prompt)[:8], 16)
    reply = f"Active: [[{1 + number % 2}]]" if "[Excerpts" in prompt else f"Rating: [[{number % 3}]]"
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }  # fmt: skip
