"""Texts to token ids and back: one BOS, never two, and each token as it reads in text.

Wraps a transformers tokenizer. Knows nothing of weights.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from saelab.core.bytetext import byte_text
from saelab.core.errors import UserError


def _byte_letters() -> dict[str, int]:
    """Which byte a letter of a byte-level vocabulary (GPT-2) is: printable ones are themselves, others from U+0100."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(0x100 + i): b for i, b in enumerate(moved)}


_BYTES = _byte_letters()
# Templates may print today's date; the same question must be the same text tomorrow.
_DATE = {"%d": "01", "%m": "01", "%Y": "2026", "%y": "26", "%b": "Jan", "%B": "January", "%a": "Thu", "%A": "Thursday"}
_FIXED = "{%- macro strftime_now(format) -%}{{ format" + "".join(f" | replace('{k}', '{v}')" for k, v in _DATE.items())
_FIXED += " }}{%- endmacro -%}"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*$")


class Tokens:
    """The tokenizer of a language model, and how the model is asked.

    bos_id: the id put first (None where the tokenizer names none); special_ids: ids that stand for no text; plain: how
    an instruction is put to the model instead of by its chat template, as a text that holds `{instruction}`; system:
    what every chat begins with.
    """

    def __init__(self, tokenizer: Any, plain: str | None = None, system: str | None = None):
        self.tokenizer = tokenizer
        if plain is not None and "{instruction}" not in plain:
            raise UserError(f"The template {plain!r} does not hold {{instruction}}.")
        if plain is not None and system is not None:
            raise UserError("A system prompt beside a template would not be read.", hint="Write it into the template.")
        self.plain, self.system = plain, system
        self.bos_id: int | None = tokenizer.bos_token_id
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids: frozenset[int] = frozenset(added | set(tokenizer.all_special_ids))
        self._strings: dict[int, str] = {}
        if system is not None:
            self._rendered("Hello.")  # a system prompt that cannot be used is said when the model is opened

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

    def token_texts(self, ids: Iterable[int]) -> list[str]:
        """Each token as what it is (`core.bytetext`): parts of characters differ, and joined they are the text."""
        return [self._text(int(i)) for i in ids]

    @property
    def asked(self) -> dict[str, str | None]:
        """How the model is asked, as the arguments of another `Tokens`."""
        return {"plain": self.plain, "system": self.system}

    def chat(self, instruction: str) -> list[int]:
        """The instruction in the template that was given, else in the model's own, up to where its answer begins.

        A BOS stands first where the model's template writes one; none is added (Qwen, for instance, wants none); a
        given template has the BOS before it. Hybrid models are told not to think. Dates are those of 1 January 2026.
        Special tokens that the instruction spells are read as text, so that it cannot open a turn.
        """
        if self.plain is not None:
            return self.with_bos(self._split(self.plain.replace("{instruction}", instruction), instruction))
        return self._split(self._rendered(instruction), instruction)

    def _rendered(self, instruction: str) -> str:
        """The instruction in the model's own template."""
        if not self.tokenizer.chat_template:
            raise UserError(
                "This model has no chat template.",
                hint="Use an instruct model, tokenize plain text, or give a template that holds {instruction}.",
            )
        turns = [{"role": "system", "content": self.system}] if self.system is not None else []
        turns.append({"role": "user", "content": instruction})
        try:
            own = self.tokenizer.get_chat_template()
            text: str = self.tokenizer.apply_chat_template(
                turns,
                chat_template=_FIXED + own if "strftime_now" in own else own,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
                thinking=False,
            )
        except Exception as error:  # templates are programs of their own: they raise what they like
            line = (str(error).strip().splitlines() or ["no message"])[0]
            raise UserError(
                f"The model's chat template does not take this: {line}",
                hint="Leave the system prompt out, or give a template that holds {instruction}.",
            ) from None
        if self.system is not None and self.system.strip() not in text:
            raise UserError(
                "The model's chat template leaves the system prompt out.",
                hint="Give a template that holds it and {instruction}.",
            )
        if (open_thought := _OPEN_THOUGHT.search(text)) is not None:  # a model that always thinks: it has done so
            text = f"{text.rstrip()}\n\n</{open_thought[1]}>\n\n"
        return text

    def _split(self, text: str, instruction: str) -> list[int]:
        """Ids of an asked text in which the instruction's own words never are special tokens."""
        spelt = instruction.strip()
        if not any(self._spelling(i) in spelt for i in self.special_ids) or spelt not in text:
            return self.tokenize([text], bos=False)[0]
        before, _, after = text.partition(spelt)
        parts = [self.tokenize([part], bos=False)[0] if part else [] for part in (before, after)]
        inside: list[int] = self.tokenizer(spelt, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*parts[0], *inside, *parts[1]]

    def _text(self, token: int) -> str:
        shown = self._string(token)
        if "\ufffd" not in shown:
            return shown
        piece = self._spelling(token)
        if (byte := _BYTE.fullmatch(piece)) is not None:  # SentencePiece's bytes
            return byte_text(bytes([int(byte[1], 16)]))
        if all(c in _BYTES for c in piece):
            return byte_text(bytes(_BYTES[c] for c in piece))
        return shown  # a token that is U+FFFD itself

    def _spelling(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def _string(self, token: int) -> str:
        if token not in self._strings:
            text = self.decode([token], special=True)
            # SentencePiece tokenizers drop a leading space when a token is decoded alone.
            spaced = self._spelling(token).startswith("▁")
            self._strings[token] = f" {text}" if spaced and not text.startswith(" ") else text
        return self._strings[token]
