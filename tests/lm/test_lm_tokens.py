"""Tokens: one BOS and never two, chat, and tokens as they read in text."""

import copy

import pytest

from saelab.core.bytetext import plain_text
from saelab.core.errors import UserError
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.lm.tokens import Tokens


def test_one_bos_never_two(llama: LanguageModel) -> None:
    for text in ("", "Hello", "<bos>Hello", "<bos>"):
        row = llama.tokenize([text])[0]
        assert row[0] == llama.bos_id and llama.bos_id not in row[1:], text
    assert llama.tokenize(["Hello"], bos=False) == [llama.tokenize(["Hello"])[0][1:]]
    assert llama.tokenize([]) == []


def test_chat_ends_where_the_answer_begins(llama: LanguageModel) -> None:
    row = llama.chat("Name a fish.")
    assert row.count(256) == 1 and row[0] == 256
    assert "".join(llama.token_strings(row)) == "<bos><turn>user\nName a fish.<eos><turn>assistant\n"
    assert llama.decode(row) == "user\nName a fish.assistant\n"


def test_token_strings_join_to_the_text(llama: LanguageModel) -> None:
    text = "The sea,  two  spaces\n\tand a tab; then the end."
    assert "".join(llama.token_strings(llama.tokenize([text], bos=False)[0])) == text
    assert llama.decode(llama.tokenize([text])[0]) == text
    assert " " in llama.token_strings(llama.tokenize(["a b"], bos=False)[0])


def test_parts_of_characters_are_marked(llama: LanguageModel) -> None:
    assert set(llama.token_strings(llama.tokenize(["漢"], bos=False)[0])) == {"�"}
    assert llama.decode(llama.tokenize(["漢"])[0]) == "漢"


def test_special_ids_stand_for_no_text(llama: LanguageModel) -> None:
    assert llama.special_ids == {256, 257, 258, 259}


def test_no_chat_template_is_a_sentence(llama: LanguageModel) -> None:
    plain = copy.deepcopy(llama.tokenizer)
    plain.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        Tokens(plain).chat("Hi")


def test_sentencepiece_tokens_keep_their_space() -> None:
    """Metaspace tokenizers (Llama 2, Gemma) drop the leading space of a token decoded alone; ours put it back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"▁the": 0, "▁sea": 1, "<s>": 2}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokens = Tokens(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    assert tokens.tokenize(["the sea"]) == [[2, 0, 1]]
    assert tokens.token_strings([0, 1]) == [" the", " sea"]


def test_a_model_without_bos_gets_none(llama: LanguageModel) -> None:
    plain = copy.deepcopy(llama.tokenizer)
    plain.bos_token = None
    tokens = Tokens(plain)
    assert tokens.bos_id is None
    assert tokens.tokenize(["Hello"]) == llama.tokenize(["Hello"], bos=False)


def test_a_text_longer_than_learned_positions_is_a_sentence() -> None:
    lm = tiny_lm("gpt2")  # 512 positions
    with pytest.raises(UserError, match="position 599, and the model has embeddings of 512"):
        lm.capture([list(range(200)) * 3], ["resid_post.0"])
    assert lm.capture([list(range(200)) * 2], ["resid_post.0"])


def test_a_token_without_an_embedding_is_a_sentence() -> None:
    lm = tiny_lm("llama")
    lm.tokenizer.add_tokens(["<added>"])  # a token added without resizing the model
    with pytest.raises(UserError, match="token 384, and the model has embeddings of 384"):
        lm.capture(["hello <added>"], ["resid_post.0"])


def test_bytes_of_sentencepiece_tokens() -> None:
    """Byte fallback (Llama 2, Gemma) names the byte; byte-level vocabularies name a letter for it."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<0xE6>": 0, "<0xBC>": 1, "<0xA2>": 2, "▁a": 3, "<s>": 4}, unk_token="<s>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    tokens = Tokens(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))
    assert plain_text(tokens.token_texts([3, 0, 1, 2])) == " a漢"
    assert len(set(tokens.token_texts([0, 1, 2]))) == 3
