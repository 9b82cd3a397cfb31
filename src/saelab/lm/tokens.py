"""Texts to token ids and back: one BOS, never two, and each token as it reads in text.

Wraps a transformers tokenizer. Knows nothing of weights.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from saelab.core.errors import UserError


class Tokens:
    """The tokenizer of a language model.

    bos_id: the id put first (None where the tokenizer names none); special_ids: ids that stand for no text; plain: how
    an instruction is put to a model without a chat template, as a text that holds `{instruction}`.
    """

    def __init__(self, tokenizer: Any, plain: str | None = None):
        self.tokenizer = tokenizer
        if plain is not None and "{instruction}" not in plain:
            raise UserError(f"The template {plain!r} does not hold {{instruction}}.")
        self.plain = plain
        self.bos_id: int | None = tokenizer.bos_token_id
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids: frozenset[int] = frozenset(added | set(tokenizer.all_special_ids))
        self._strings: dict[int, str] = {}

    def tokenize(self, texts: Iterable[str], *, bos: bool = True) -> list[list[int]]:
        """Token ids of each text, with one BOS first where `bos` and the model has one."""
        texts = list(texts)
        if not texts:
            return []
        rows: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self.with_bos(ids) for ids in rows] if bos else rows

    def with_bos(self, ids: Sequence[int]) -> list[int]:
        """The ids with one BOS first; ids that begin with it are left as they are."""
        if self.bos_id is None or (ids and ids[0] == self.bos_id):
            return list(ids)
        return [self.bos_id, *ids]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of the ids, special tokens left out unless `special`."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)

    def token_strings(self, ids: Iterable[int]) -> list[str]:
        """Each token as it reads in text, with its leading space; part of a character reads as U+FFFD."""
        return [self._string(int(i)) for i in ids]

    def chat(self, instruction: str) -> list[int]:
        """The instruction in the model's chat template, up to where its answer begins.

        A BOS stands first where the template writes one; none is added (Qwen, for instance, wants none). A model
        without a chat template is asked in the plain template it was given, after its BOS.
        """
        if not self.tokenizer.chat_template:
            if self.plain is None:
                raise UserError(
                    "This model has no chat template.",
                    hint="Use an instruct model, tokenize plain text, or give a template that holds {instruction}.",
                )
            return self.tokenize([self.plain.replace("{instruction}", instruction)])[0]
        turns = [{"role": "user", "content": instruction}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenize([text], bos=False)[0]

    def _string(self, token: int) -> str:
        if token not in self._strings:
            text = self.decode([token], special=True)
            # SentencePiece tokenizers drop a leading space when a token is decoded alone.
            spaced = str(self.tokenizer.convert_ids_to_tokens(token)).startswith("▁")
            self._strings[token] = f" {text}" if spaced and not text.startswith(" ") else text
        return self._strings[token]
