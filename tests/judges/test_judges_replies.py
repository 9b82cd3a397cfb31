"""Every form of reply becomes the state that the page says, at the calls it says: never an exception, never a number
that nobody gave, never more than 64 MB."""

import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from reply_forms import ATTEMPTS, ENDS, FORMS, Form, table

from saelab.core.errors import UserError
from saelab.core.records import Description
from saelab.judges.cache import ReplyCache
from saelab.judges.client import Request
from saelab.judges.endpoint import ChatConfig
from saelab.judges.openai_compatible import OpenAIJudge

PAGE = Path(__file__).parents[2] / "docs" / "judge-replies.md"


class Replayer:
    """Serves one form at a time, to whoever asks."""

    def __init__(self) -> None:
        self.form: Form = FORMS[0]
        self.calls = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                outer.calls += 1
                with suppress(BrokenPipeError, ConnectionResetError):
                    outer.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        form = self.form
        if form.wire in ("hang-up", "stall", "short") or not form.wire:
            if form.wire == "hang-up":
                handler.connection.close()
                return
            handler.send_response(form.status)
            for name, value in ({"content-type": "application/json"} | form.headers).items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(form.body) + (100 if form.wire else 0)))
            handler.end_headers()
            if form.wire == "stall":
                handler.wfile.flush()
                time.sleep(0.6)
            handler.wfile.write(form.body)
        else:
            handler.wfile.write(form.wire.encode("latin-1"))
        handler.close_connection = True


@pytest.fixture(scope="module")
def replayer() -> Iterator[Replayer]:
    made = Replayer()
    yield made
    made.server.shutdown()
    made.server.server_close()


def ask(replayer: Replayer, form: Form, cache: ReplyCache | None = None) -> tuple[str, int, OpenAIJudge]:
    """The state of one question (with its value), the calls it took, and the judge."""
    replayer.form, replayer.calls = form, 0
    settings = {"model": "fake-1", "base_url": replayer.url, "attempts": ATTEMPTS, "backoff": 0.001}
    judge = OpenAIJudge(ChatConfig.parse(settings | form.settings), cache=cache, api_key="sk-planted-key")
    request = Request(form.task, text="A text.", description=Description("a word"))
    try:
        (found,) = judge.judge([request])
    except UserError as error:
        assert error.hint, "what ends a run says what to do"
        return ENDS, replayer.calls, judge
    assert found.state == "ok" or found.reason
    return found.state if found.value is None else f"{found.state} {found.value:g}", replayer.calls, judge


@pytest.mark.parametrize("form", FORMS, ids=[f.name[:60] for f in FORMS])
def test_a_reply_becomes_the_state_of_the_table(replayer: Replayer, form: Form) -> None:
    outcome, calls, judge = ask(replayer, form)
    booked = judge.spend.prompt_tokens > 0
    assert (outcome, calls, booked) == (form.outcome, form.calls, form.booked)
    assert judge.spend.prompt_tokens in (0, 100 * calls), "each paid call is booked"


def test_the_page_shows_every_form_and_nothing_else() -> None:
    """Control: the page is generated; a form that is added or changes shows here."""
    assert len(FORMS) >= 60 and len({f.name for f in FORMS}) == len(FORMS)
    assert table().strip() in PAGE.read_text(encoding="utf-8"), "run `python tests/judges/reply_forms.py`"


def test_no_reply_takes_64_mb(replayer: Replayer) -> None:
    large = [f for f in FORMS if "MB" in f.name or "deep" in f.name]
    assert len(large) >= 4
    tracemalloc.start()
    try:
        for form in large:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            ask(replayer, form)
            assert tracemalloc.get_traced_memory()[1] - before < 64e6, form.name
    finally:
        tracemalloc.stop()


def test_a_refusal_is_paid_for_once_also_in_its_own_field(replayer: Replayer, tmp_path: Path) -> None:
    form = next(f for f in FORMS if f.name == "the `refusal` field")
    cache = ReplyCache(tmp_path / "replies.sqlite")
    assert ask(replayer, form, cache)[:2] == ("refused", 1)
    assert ask(replayer, form, cache)[:2] == ("refused", 0)
    cache.close()


def test_names_once_accepted_are_not_accepted_for_ever(replayer: Replayer, tmp_path: Path) -> None:
    """The cache keeps who answered: without `accept`, a reply of another model is no reply of this judge."""
    form = next(f for f in FORMS if "`accept`" in f.name)
    cache = ReplyCache(tmp_path / "replies.sqlite")
    assert ask(replayer, form, cache)[:2] == ("ok 2", 1)
    assert ask(replayer, form, cache)[:2] == ("ok 2", 0)
    bare = Form("", "", 0, False, form.body)
    assert ask(replayer, bare, cache)[:2] == (ENDS, 2)
    cache.close()


def test_three_questions_refused_alike_end_the_run(replayer: Replayer) -> None:
    form = next(f for f in FORMS if f.name == "HTTP 400 about this question")
    replayer.form, replayer.calls = form, 0
    judge = OpenAIJudge(ChatConfig(model="fake-1", base_url=replayer.url), api_key="sk-planted-key")
    with pytest.raises(UserError, match=r"first 3 questions.*cannot be processed"):
        judge.judge([Request("fluency", text=f"text {i}") for i in range(200)])
    assert replayer.calls == 3
