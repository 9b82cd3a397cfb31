"""Text that is not ASCII, on a byte-level model of which every Chinese character is three tokens: no description holds
U+FFFD, a feature's first term occurs in its windows, contexts are text, and no part stands for another."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from saelab.core.bytetext import has_parts, plain_text
from saelab.core.records import Description, Judgement, Term
from saelab.interp.features.codes import Codes
from saelab.interp.features.describe import DescribeConfig, DescribingText, describe
from saelab.judges.client import Request
from saelab.judges.lexical import LexicalJudge
from saelab.judges.prompts import questions_of
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.store.layout import RunFolder
from saelab.study.run import run
from saelab.study.spec import StudyConfig
from saelab.text.pack import PackedText


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "languages.py"
    spec = importlib.util.spec_from_file_location("languages", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    return tiny_lm("llama")


@pytest.mark.parametrize("language", ["zh", "ru"])
def test_a_study_of_another_language(tool: ModuleType, tmp_path: Path, language: str) -> None:
    lm = tiny_lm("llama", n_layers=2)
    lm.model.save_pretrained(tmp_path / "lm")
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    file = tool.study(language, tmp_path, f"path:{tmp_path / 'lm'}", sites=["resid_post.0"], levels=[4], d_sae=64)
    study = StudyConfig.from_yaml(file)
    small = study.text.model_copy(update={"train_contexts": 150, "held_out_contexts": 8, "context": 48})
    training = study.training.model_copy(update={"steps": 20})
    scored = study.interp.model_copy(update={"n_scored": 6})
    study = study.model_copy(update={"text": small, "training": training, "interp": scored})
    folder = RunFolder(tmp_path / "run")
    run(study, folder.root)

    packed = PackedText.load(folder.tokens(study.models[0].key) / "train")
    own = tiny_lm("llama")
    read = [plain_text(own.token_texts(row)) for row in packed.tokens.tolist()]
    interp = folder.interp(next(p.name for p in (tmp_path / "run" / "interp").iterdir()))
    features, contexts = interp.features.read(), interp.contexts.read()
    described = features.drop_nulls("description")
    assert described.height > 20
    assert any(has_parts(t["raw"]) for row in described["terms"] for t in row), "control: terms are parts"
    assert not described["description"].str.contains("\ufffd").any()
    assert not any("\ufffd" in t["text"] or has_parts(t["text"]) for row in described["terms"] for t in row)
    shown = contexts.with_columns(pl.col("tokens").list.join("").alias("text"))
    for text in shown["text"]:
        assert any(text in context for context in read), "joined tokens are the text"
    seen = dict(shown.group_by("feature").agg(pl.col("text").str.join("\n")).iter_rows())
    first = {r["feature"]: r["terms"][0]["text"] for r in described.iter_rows(named=True)}
    found = [first[f] in seen[f] for f in first if f in seen]
    assert len(found) > 20 and all(found), "a feature's first term occurs in its windows"


def test_a_part_stands_for_no_other(llama: LanguageModel) -> None:
    """A judge once gave a Cyrillic window 0.99 for a byte of a Chinese character: both read U+FFFD."""
    texts = llama.token_texts(range(llama.vocab_size))
    assert len(set(texts)) == len(texts)
    strings = llama.token_strings(range(llama.vocab_size))
    assert len(set(strings)) < len(strings), "control: as they read, they are not told apart"

    (han,), (cyrillic,) = llama.tokenize(["漢"], bos=False), llama.tokenize(["б"], bos=False)
    description = Description("“漢”", (Term("漢", 0.99, llama.token_texts(han[:1])[0]),))
    windows = [tuple(llama.token_texts(ids)) for ids in (han, cyrillic)]
    asked = [Request("detection", tokens=w, description=description) for w in windows]
    found: list[Judgement] = LexicalJudge().judge(asked)
    assert [j.value for j in found] == [pytest.approx(0.99), 0.0]
    (question,), _ = questions_of(asked, "j")
    assert "[1] 漢" in question.prompt and "[2] б" in question.prompt and "\ufffd" not in question.prompt


def test_tokens_join_to_the_text(llama: LanguageModel) -> None:
    for text in ("Пчела летит.", "漢字かな交じり文", "a\u0301 é 🙂 plain", "\ufffd"):
        assert plain_text(llama.token_texts(llama.tokenize([text], bos=False)[0])) == text


def test_a_term_of_parts_is_written_as_the_characters_it_stands_in(llama: LanguageModel) -> None:
    text = "漢漢漢法法字" * 40
    tokens = np.array(llama.tokenize([text], bos=False)[0])
    previous = np.concatenate([[-1], tokens[:-1]])
    places = np.flatnonzero(tokens == llama.tokenize(["漢"], bos=False)[0][0])
    codes = Codes(np.array([0, len(places)]), places, np.ones(len(places), np.float32), len(tokens))
    strings = llama.token_texts(range(llama.vocab_size))
    read = np.ones(len(tokens), bool)
    found = describe(codes, DescribingText(tokens, previous, read, strings), np.ones(1, np.float32), DescribeConfig())
    assert found[0].text.startswith("“漢”, “法”")
