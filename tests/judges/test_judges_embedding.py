"""Detection by meaning: likeness as a score, what cannot be compared as a state."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizer

from saelab.core.errors import ArtefactError
from saelab.core.records import Description, Term
from saelab.interp.features.detection import Trial, detect
from saelab.judges.client import Judge, Request
from saelab.judges.embedding import EmbeddingJudge, MiniLM, Words


class Axes:
    """Three words as three axes."""

    name = "axes"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[t.count(w) for w in ("sea", "war", "tax")] for t in texts], np.float32)
        norms = np.linalg.norm(counts, axis=1, keepdims=True)
        return counts / np.where(norms > 0, norms, 1)


JUDGE = EmbeddingJudge(Axes())
SEA = Description("the sea", (Term(" sea", 0.9),))


def test_the_score_is_the_likeness_of_text_and_description() -> None:
    asked = [Request("detection", tokens=t, description=SEA) for t in (("the", " sea"), (" sea", " war"), (" war",))]
    found = JUDGE.judge(asked)
    assert [j.value for j in found] == pytest.approx([1.0, (1 + 2**-0.5) / 2, 0.5])
    assert isinstance(JUDGE, Judge) and found[0].judge == JUDGE.name == "embedding:axes"


def test_a_description_without_terms_is_read_as_it_is_written() -> None:
    written = Description("all about tax")
    assert JUDGE.judge([Request("detection", text="tax", description=written)])[0].value == pytest.approx(1.0)


def test_detection_by_meaning_tells_windows_apart_and_a_wrong_description_does_not() -> None:
    windows = ((" sea", " sea"), (" the", " sea"), (" war",), (" tax",))
    active = np.array([True, True, False, False])
    described = (SEA, Description("war", (Term("war", 1.0),)), Description("tax and war"))
    aurocs = [
        detect([Trial(0, d, (), np.zeros(0, bool), windows, active)], JUDGE, calibrated=False)[0].auroc
        for d in described
    ]
    assert aurocs == [1.0, 0.25, 0.0]


@pytest.mark.parametrize(
    "request_",
    [
        Request("detection", text="nothing known", description=SEA),
        Request("detection", text="sea", description=Description("nothing known")),
        Request("detection", text="sea"),
        Request("concept", text="sea", description=SEA),
    ],
)
def test_what_cannot_be_compared_is_missing(request_: Request) -> None:
    found = JUDGE.judge([request_])[0]
    assert (found.state, found.value) == ("missing", None) and found.reason


def test_words_in_common_are_counted_in_any_script() -> None:
    words = Words()
    same, other = words(["The red house", "猫坐着"]), words(["red house", "猫"])
    assert same[0] @ other[0] > 0.7 and same[1] @ other[1] > 0.5 and abs(float(same[0] @ other[1])) < 0.3
    assert not words(["", "!?"]).any()


def test_an_encoder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """What lacks would be drawn at random. Control: whole, and without the pooler that means need not."""
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sea", "war"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path)
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    whole = MiniLM(f"path:{tmp_path}")(["the sea", "war"])
    weights = load_file(tmp_path / "model.safetensors")

    def without(part: str) -> None:
        kept = {name: tensor for name, tensor in weights.items() if part not in name}
        assert len(kept) < len(weights)
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})

    without("pooler.")
    assert np.array_equal(MiniLM(f"path:{tmp_path}")(["the sea", "war"]), whole)
    without("attention.output.dense.weight")
    with pytest.raises(ArtefactError, match=r"lack .*attention\.output\.dense\.weight"):
        MiniLM(f"path:{tmp_path}")
