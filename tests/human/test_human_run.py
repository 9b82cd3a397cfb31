"""From a run to the table: the readers are the run's, nothing else is touched, the pages keep each answer."""

import http.client
import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from saelab.cli import main
from saelab.core.errors import ArtefactError, UserError
from saelab.explore.server import Served, bound
from saelab.human.answers import AnswerFile
from saelab.human.app import make_app
from saelab.human.session import RatingSession
from saelab.human.shown import steered_sets
from saelab.human.trials import trials_of
from saelab.instrument.again import dictionary_again, sae_again
from saelab.instrument.outcomes import by_text
from saelab.instrument.readers import OUTCOMES, RANDOM
from saelab.instrument.texts import texts_of
from saelab.store.files import sha256_of
from saelab.store.layout import RunFolder
from saelab.study import workspace
from saelab.study.spec import StudyConfig
from saelab.study.workspace import Workspace

SAE, LM, SITE = "topk.l0_4.resid_post.1", "lm", "resid_post.1"


def files_of(run: RunFolder) -> dict[str, str]:
    """The sums of all that is no human check's."""
    files = sorted(p for p in run.root.rglob("*") if p.is_file() and run.human.root not in p.parents)
    return {str(p): sha256_of(p) for p in files}


def test_readers_made_again_give_exactly_the_percentiles_of_the_run(steered_run: RunFolder) -> None:
    """Control: another SAE's readers do not, and are refused."""
    run = steered_run
    work = Workspace(StudyConfig.from_yaml(run.study), run)
    model = work.models[LM]
    place, gate, kept = work.place(model, SITE), run.instrument(LM, SITE), run.steering(SAE)
    again = sae_again(place, gate, work.coder(SAE), kept)
    texts, readings = texts_of(again.measured.table), kept.readings.read()
    assert len(again.numbers) >= 3 and readings["text"].to_list() == again.measured.table["text"].to_list()
    for outcome in OUTCOMES:
        made = by_text(again.measured.values[outcome], texts)["percentile"]
        assert made.equals(readings[outcome]) and made.null_count() < made.len()
    random = dictionary_again(place, gate, (48, 4))
    table = gate.features.read().filter(set=f"{RANDOM}.48.4")
    for outcome in OUTCOMES:
        assert random.measured.tables[outcome]["percentile"].equals(table.filter(outcome=outcome)["percentile"])
    other = work.coder(SAE)
    order = np.random.default_rng(0).permutation(48)
    other.W_dec.data, other.W_enc.data = other.W_dec[order].clone(), other.W_enc[:, order].clone()
    with pytest.raises(ArtefactError, match="made again, do not give the percentiles"):
        sae_again(place, gate, other, kept)


def test_what_is_shown_is_made_once_and_nothing_else_is_touched(
    steered_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(steered_run)
    sets = steered_sets(steered_run)
    assert [one.control for one in sets] == [False, True] and files_of(steered_run) == before

    def refuse(model: object) -> None:
        raise AssertionError("the model is read again")

    monkeypatch.setattr(workspace, "load_lm", refuse)
    again = steered_sets(steered_run)
    assert all(a.features.equals(b.features) and a.texts.equals(b.texts) for a, b in zip(sets, again, strict=True))
    stale = steered_run.human.shown(SAE)
    whole = stale.read()
    stale.write(whole.with_columns(texts=pl.lit("of other texts")))
    with pytest.raises(AssertionError, match="read again"):  # control: other texts have other readings
        steered_sets(steered_run)
    stale.write(whole)


def test_what_cannot_be_made_again_is_a_sentence(steered_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        steered_sets(RunFolder(tmp_path))
    shown, activations = steered_run.human.shown(SAE).path, steered_run.activations(LM)
    steered_sets(steered_run)
    shown.rename(tmp_path / "shown")
    activations.rename(tmp_path / "activations")
    try:
        with pytest.raises(ArtefactError, match=r"cannot be made again: .* is missing"):
            steered_sets(steered_run)
    finally:
        (tmp_path / "activations").rename(activations)
        (tmp_path / "shown").rename(shown)


Ask = Callable[..., tuple[int, object]]


def asking(port: int, token: str) -> Ask:
    """One request with a visitor's cookie, unless another is given; answers that are no JSON as they are."""

    def ask(path: str, data: object = None, cookie: str | None = None) -> tuple[int, object]:
        headers = {"Cookie": f"saelab-{port}={token}" if cookie is None else cookie, "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            body = None if data is None else json.dumps(data)
            connection.request("GET" if data is None else "POST", path, body, headers)
            answer = connection.getresponse()
            found = answer.read()
            return answer.status, json.loads(found) if found[:1] in b"{[" else found.decode()

    return ask


def test_from_start_to_the_table(steered_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """The page, its trials and answers, the refusals, and then the table on the command line."""
    run = steered_run
    assert main(["rate", str(run.root), "--report"]) == 2 and "Nobody has rated" in capsys.readouterr().err
    trials = trials_of(steered_sets(run), 0)
    session = RatingSession(trials, AnswerFile(run.human, "anna"), 5)
    with bound("127.0.0.1", 0) as socket:
        served = Served(make_app(session), socket, "127.0.0.1", told=lambda _: None, ending=lambda: None)
        thread = threading.Thread(target=served.run, kwargs={"browser": False}, daemon=True)
        thread.start()
        ask = asking(socket.getsockname()[1], served.address.partition("token=")[2])
        status, page = ask("/")
        assert status == 200 and "Which text is about this?" in str(page) and "style=" not in str(page)
        assert all(ask(f"/static/{name}")[0] == 200 for name in ("rate.js", "rate.css", "explore.js", "explore.css"))
        for path, data in (("/api/trial", None), ("/api/answer", {"trial": trials[0].key, "answer": "left"})):
            assert ask(path, data, cookie="")[0] == 403, "control: nobody without the address"
        assert ask("/api/answer", {"trial": "none", "answer": "left"})[0] == 400
        assert ask("/api/report")[0] == 400 and ask("/nothing") == (
            404,
            {"error": "There is no such page.", "hint": None},
        )
        for n, choice in enumerate(("left", "right", "neither", "skip", "left")):
            _, now = ask("/api/trial")
            assert isinstance(now, dict) and now["done"] == n and now["trial"]["left"] == trials[n].left
            assert ask("/api/answer", {"trial": now["trial"]["key"], "answer": choice})[0] == 200
        _, now = ask("/api/trial")
        assert isinstance(now, dict) and now["trial"] is None
        status, report = ask("/api/report")
        assert status == 200 and isinstance(report, dict) and {r["what"] for r in report["rows"]} == {
            "finds the steered text", "chooses as described by lexical", "chooses as read_back by lm",
        }  # fmt: skip
        assert ask("/api/undo", {})[0] == 200 and len(AnswerFile(run.human, "anna").read().choices) == 4
        served.server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
    AnswerFile(run.human, "ben").add(trials[0].key, "left")
    AnswerFile(run.human, "ben").add("of another run", "left")
    assert main(["rate", str(run.root), "--report"]) == 0
    out = capsys.readouterr()
    assert "rater anna" in out.out and "kappa" in out.out and "1 answers of ben are of texts" in out.err
    assert main(["rate", str(run.root), "--report", "--json"]) == 0
    assert {row["rater"] for row in json.loads(capsys.readouterr().out)} == {"anna", "ben"}
    for wrong, said in ((["--trials", "0"], "at least 1"), (["--rater", "a/b"], "cannot be called so")):
        assert main(["rate", str(run.root), *wrong]) == 2 and said in capsys.readouterr().err
