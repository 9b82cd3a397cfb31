"""Laws of trying a text and of steering while somebody watches, on a tiny model."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opened_world import SITE, D, F, some_sae

from saelab.core.errors import UserError
from saelab.explore import steer_live
from saelab.explore.live import LiveModel, Stopped
from saelab.explore.try_text import LONGEST, try_text
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.steering.export import load_directions, save_directions

LM, SAES = tiny_lm(), {"one": some_sae(None, 0), "other": some_sae(None, 1)}
PROMPT = "the cat walks"


def wanted(**changes: Any) -> steer_live.Asked:
    turns = [{"sae": "one", "feature": 3, "share": 0.4}, {"sae": "other", "feature": 5, "share": -0.2}]
    return steer_live.asked({"prompt": PROMPT, "features": turns, "scales": [0.5, 2], "tokens": 12} | changes)


def written(what: steer_live.Asked, **limits: float) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    steer_live.write(LM, SAES, what, lines.append, lambda: False, limits)
    return lines


def test_texts_are_those_of_one_edit_by_hand_and_the_first_is_the_model_as_it_is() -> None:
    lines = written(wanted())
    ids = LM.tokenize([PROMPT])[0]
    norm = float(LM.capture([ids], [SITE])[SITE].norm(dim=-1).median())
    rows = [SAES["one"].W_dec[3], SAES["other"].W_dec[5]]
    push = norm * (0.4 * rows[0] / rows[0].norm() - 0.2 * rows[1] / rows[1].norm())
    by_hand = [LM.generate([ids], Sampling(12), edits=[Add(SITE, push, s)])[0] for s in (0.5, 2.0)]
    assert lines[-1]["texts"] == [LM.generate([ids], Sampling(12))[0], *by_hand]
    assert by_hand[1] != lines[-1]["texts"][0]  # control: a push that does something


def test_the_saved_directions_write_the_text_of_the_page(tmp_path: Path) -> None:
    what = wanted(scales=[1, 2])
    ids, path = LM.tokenize([PROMPT])[0], tmp_path / "directions.safetensors"
    save_directions(path, {str(i): d for i, d in enumerate(steer_live.directions(LM, SAES, what))})
    kept = load_directions(path).values()
    again = [LM.generate([ids], Sampling(12), edits=[d.edit(f) for d in kept])[0] for f in (1.0, 2.0)]
    texts = written(what)[-1]["texts"]
    assert texts[1:] == again
    wrong = [replace(d, vector=-d.vector).edit(2.0) if d.feature == 5 else d.edit(2.0) for d in kept]
    assert LM.generate([ids], Sampling(12), edits=wrong)[0] != texts[2]  # control: the sign matters


def test_what_streams_grows_to_the_text_that_is_written() -> None:
    lines = written(wanted())
    assert [line["type"] for line in lines[:1]] == ["text"] and lines[-1]["type"] == "end"
    for row, text in enumerate(lines[-1]["texts"]):
        grown = [line["text"] for line in lines if line["type"] == "text" and line["row"] == row]
        assert len(grown) > 5 and grown[-1] == text.rstrip(steer_live.SPLIT)


def test_doses_are_zero_without_steering_grow_and_warn_above_what_was_tried() -> None:
    doses = next(line for line in written(wanted()) if line["type"] == "doses")["rows"]
    nats = [row["nats"] for row in doses]
    assert nats[0] == pytest.approx(0, abs=1e-5) and 0 < nats[1] < nats[2]
    assert doses[0]["warning"] is None
    tried = next(line for line in written(wanted(), **{SITE: nats[1]}) if line["type"] == "doses")["rows"]
    assert tried[1]["warning"] is None and "may break" in tried[2]["warning"]
    assert steer_live.warning(steer_live.BREAKS, None) is None and steer_live.warning(1.6, None)


def test_a_writing_that_nobody_reads_ends_and_says_nothing_more() -> None:
    lines, stop = list[dict[str, Any]](), threading.Event()

    def tell(line: dict[str, Any]) -> None:
        lines.append(line)
        stop.set()

    with pytest.raises(Stopped):
        steer_live.write(LM, SAES, wanted(tokens=200), tell, stop.is_set, {})
    assert len(lines) < 10 and lines[-1]["type"] != "end"


@pytest.mark.parametrize(
    "changes",
    [{"prompt": " "}, {"features": []}, {"features": [{"sae": "one", "feature": "3", "share": 1}]}, {"scales": []},
     {"scales": [float("nan")]}, {"tokens": 0}, {"tokens": 10**6}, {"temperature": -1}, {"scales": [True]},
     {"features": [{"sae": "one", "feature": 1, "share": 99}]}],
)  # fmt: skip
def test_what_cannot_be_steered_is_a_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        wanted(**changes)


def test_a_text_shows_the_codes_of_its_tokens() -> None:
    sae, text = SAES["one"], "the cat ümlaut"
    found = try_text(LM, sae, text)
    assert "".join(found["tokens"]) == text and "ü" in found["tokens"]  # a character of two tokens is one
    codes = sae.encode(LM.capture([text], [SITE])[SITE])
    assert found["features"][0]["largest"] == pytest.approx(float(codes.max()))
    assert found["features"][0]["feature"] == int(codes.max(0).values.argmax())
    assert all(len(row["values"]) == len(found["tokens"]) for row in found["features"])
    for text in ("", "a" * 4 * LONGEST):
        with pytest.raises(UserError):
            try_text(LM, sae, text)


def test_a_feature_that_is_asked_about_comes_first() -> None:
    """Whether it fires or not. Control: the others and their order stay."""
    sae, text = SAES["one"], "the cat"
    usual = [row["feature"] for row in try_text(LM, sae, text)["features"]]
    codes = sae.encode(LM.capture([text], [SITE])[SITE]).amax(0)
    silent = int((codes == 0).nonzero()[0])
    for about in (usual[-1], silent):
        found = try_text(LM, sae, text, about=about)["features"]
        assert found[0]["feature"] == about and found[0]["largest"] == pytest.approx(float(codes[about]))
        assert [row["feature"] for row in found[1:]] == [f for f in usual if f != about]


def test_a_model_says_its_state() -> None:
    wait = threading.Event()

    def slow() -> LanguageModel:
        wait.wait(5)
        return LM

    model = LiveModel(slow, "tiny")
    model.begin()
    assert model.state["state"] == "loading"
    with pytest.raises(UserError, match="being read"):
        model.get()
    wait.set()
    while model.state["state"] == "loading":
        pass
    with model.turn("reading", lambda: False) as lm:
        assert lm is LM

    def broken() -> LanguageModel:
        raise UserError("No such model.")

    failed = LiveModel(broken, "tiny")
    failed.begin()
    while failed.state["state"] == "loading":
        pass
    assert failed.state == {"state": "none", "name": "tiny", "said": "No such model."}


def test_a_use_of_the_model_ends_at_its_next_block_and_others_are_told_who_has_it() -> None:
    model, stop, inside, said = LiveModel(lambda: LM, "tiny"), threading.Event(), threading.Event(), list[str]()
    model.begin()
    while model.state["state"] == "loading":
        pass

    def work() -> None:
        try:
            with model.turn("writing 8 texts", stop.is_set) as lm:
                lm.tokenize([PROMPT])
                lm.logits(torch.tensor([[1, 2]]))  # control: a use that is not stopped runs through
                said.append("ran")
                inside.set()
                assert stop.wait(20)
                lm.logits(torch.tensor([[1, 2]]))
                said.append("ran on")
        except Stopped:
            said.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(20)
    with pytest.raises(UserError, match="writing 8 texts"), model.turn("reading", lambda: False, wait=0.1):
        pass
    stop.set()
    thread.join(20)
    with model.turn("reading", lambda: False) as lm:
        lm.logits(torch.tensor([[1, 2]]))  # nothing of the stop stays behind
    assert said == ["ran", "stopped"]


def test_a_prompt_beyond_the_context_is_a_sentence() -> None:
    most = min(steer_live.MOST_PROMPT, LM.model.config.max_position_embeddings - 12)
    for words in (most, 10**6):
        with pytest.raises(UserError, match="The prompt has"):
            written(wanted(prompt="cat " * words))


def test_a_width_that_does_not_fit_is_a_sentence() -> None:
    wide = tiny_lm(d_model=2 * D)
    assert len(SAES["one"].W_dec) == F
    with pytest.raises(UserError, match=f"width {D}"), torch.inference_mode():
        steer_live.write(wide, SAES, wanted(), print, lambda: False, {})
