"""A canary key is in nothing that a judge leaves behind: files, tables, messages, tracebacks, logs, judgements."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from fake_endpoint import FakeEndpoint
from saelab.core.errors import SaelabError
from saelab.judges.cache import ReplyCache
from saelab.judges.client import Request
from saelab.judges.endpoint import ChatConfig
from saelab.judges.openai_compatible import OpenAIJudge

CANARY = "sk-canary-77/88+99"


class Echo(FakeEndpoint):
    """Sends the headers of the request back, in every way that a body, a header or a model's words can hold them."""

    def __init__(self, status: int = 200, **settings: Any):
        self.status = status
        super().__init__(**settings)

    def _answer(self, handler: Any, what: str, body: dict[str, Any]) -> None:
        key = handler.headers["authorization"]
        if what == "stall":
            super()._answer(handler, what, body)
            return
        error = json.dumps({"error": {"message": f"bad request with headers {key}", "code": key, "param": key}})
        good = self._completion(
            f"You sent {key}.\nRating: [[2]]", model=f"{self.model}-{key}" if what == "model" else None
        )
        text = good if self.status == 200 else error
        handler.send_response(self.status)
        handler.send_header("location", f"http://elsewhere.example/{key}?key={key}")
        handler.send_header("x-request-id", key)
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())


def left_behind(folder: Path) -> bytes:
    return b"\0".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


FAULTS = ("200", "model", "307", "400", "401", "403", "404", "429", "500", "stall", "network down", "blank", "Ünicode")


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_shows_the_key(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ends = {"blank": "\n", "Ünicode": "é"}
    monkeypatch.setenv("OPENAI_API_KEY", CANARY + ends.get(fault, ""))
    caplog.set_level(logging.DEBUG)
    plan = fault if fault in ("stall", "model") else "ok"
    endpoint = Echo(int(fault) if fault.isdigit() else 200, plan=lambda n, body: plan)
    if fault == "network down":
        endpoint.close()
    cache = ReplyCache(tmp_path / "replies.sqlite")
    config = ChatConfig(model="fake-1", base_url=endpoint.url, attempts=2, backoff=0.001, deadline=0.5)
    judge = OpenAIJudge(config, cache=cache, max_missing=1.0)
    said = [judge.name, repr(config), config.to_yaml()]
    try:
        found = judge.judge([Request("fluency", text=f"text {i}") for i in range(4)])
        said.append(repr(found))
        assert fault not in ("200", "blank") or found[0].value == 2, "control: it was asked"
    except SaelabError as error:
        said += [repr(error), str(error), "".join(traceback.format_exception(error))]
    said += [caplog.text, *capfd.readouterr()]
    endpoint.close()
    cache.close()
    assert endpoint.calls or fault in ("network down", "Ünicode")
    stored = left_behind(tmp_path)
    assert len(stored) > 1000
    for shown in ("".join(said).encode(), stored):
        assert CANARY.encode() not in shown and b"sk-canary" not in shown


SWEEP = (
    "401", "400", "307", "timeout", "network down", "newline", "Ünicode", "base_url", "debug", "crash", "SIGKILL", "ray"
)  # fmt: skip
ENDED = {"SIGKILL": 1, "timeout": 12}  # after so many calls; those that time out are made again for hours
REFUSED = ("Ünicode", "base_url")  # at the door: nothing is asked
RUN = "import sys; from saelab.cli import main; sys.exit(main(sys.argv[1:]))"
CRASH = "from saelab.judges.chat import ChatClient; ChatClient._book = lambda self, *a: 1 / 0; "


@pytest.mark.sweep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", SWEEP)
def test_no_run_leaves_the_key(fault: str, tmp_path: Path) -> None:
    """`saelab run` and `report` of a whole small study: run folder, page, stdout, stderr and Ray's logs."""
    status = int(fault) if fault.isdigit() else 400 if fault in ("debug", "ray") else 200
    endpoint = Echo(status, plan=lambda n, body: "stall" if fault == "timeout" else "ok")
    url = endpoint.url.replace("//", f"//user:{CANARY[:9]}@") if fault == "base_url" else endpoint.url
    study = small_study(tmp_path / "in", url, deadline=0.5 if fault == "timeout" else 60.0)
    if fault == "network down":
        endpoint.close()
    if fault == "SIGKILL":
        endpoint.open.clear()
    logs = Path(tempfile.mkdtemp(prefix="k"))  # Ray's sockets allow no long path
    environment = os.environ | {
        "OPENAI_API_KEY": CANARY + {"newline": "\n", "Ünicode": "é"}.get(fault, ""),
        "RAY_TMPDIR": str(logs),
    }
    environment |= {"SAELAB_DEBUG": "1", "OPENAI_LOG": "debug"} if fault in ("debug", "crash") else {}
    run = ["run", str(study), "--out", str(tmp_path / "run"), *(["--on", "ray"] if fault == "ray" else [])]
    with (tmp_path / "log.txt").open("wb") as log:
        program = [sys.executable, "-c", (CRASH if fault == "crash" else "") + RUN]
        process = subprocess.Popen([*program, *run], stdout=log, stderr=log, env=environment)
        if fault in ENDED:
            until = time.monotonic() + 300
            while len(endpoint.calls) < ENDED[fault] and time.monotonic() < until:
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run(
            [*program, "report", str(tmp_path / "run")], stdout=log, stderr=log, env=environment, check=False
        )
    endpoint.close()
    said = (tmp_path / "log.txt").read_text()
    assert bool(endpoint.calls) == (fault not in ("network down", *REFUSED)), said
    assert (process.returncode == -signal.SIGKILL) == (fault in ENDED), said
    assert fault != "crash" or "ZeroDivisionError" in said, "control: it crashed where the key is"
    shutil.rmtree(tmp_path / "in")  # what its user wrote
    stored = left_behind(tmp_path) + left_behind(logs)
    shutil.rmtree(logs)
    assert (fault.encode() if fault == "base_url" else b"key" if fault in REFUSED else b"fake-1") in stored
    assert CANARY[:9].encode() not in stored


def small_study(folder: Path, url: str, deadline: float) -> Path:
    from saelab.lm.tiny import tiny_lm

    lm = tiny_lm("llama")
    lm.model.save_pretrained(folder / "lm")
    lm.tokenizer.save_pretrained(folder / "lm")
    texts = [f"the cat number {i} walks to the river and the house " * 12 for i in range(200)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    data = {
        "name": "small",
        "models": [
            {
                "lm": f"path:{folder / 'lm'}",
                "dtype": "float32",
                "grids": [{"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [4], "d_sae": 64}],
            }
        ],
        "text": {"corpus": {"source": f"path:{folder / 'text.jsonl'}"}, "context": 32, "train_contexts": 160,
                 "held_out_contexts": 16},
        "training": {"steps": 30, "batch": 128, "precision": "float32"},
        "judge": {"name": "openai:fake-1", "base_url": url, "deadline": deadline},
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(data))
    return folder / "study.yaml"
