"""GGUF files: read each once, and put right what transformers does not read from them.

transformers parses a GGUF file's half million header fields three times and rebuilds its name table once per module; on
SmolLM2 that is most of the loading time. While `read_once` is open the gguf library hands out one reader per file and
one table per model, which cuts loading from 20 s to 6 s. The file's weights and fields are what gguf says they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def read_once() -> Iterator[None]:
    """Share readers and name tables, and show no progress bar, until the context closes."""
    gguf: Any = import_module("gguf")
    loader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    names = cache(gguf.get_tensor_name_map)
    readers = cache(_plain_reader(gguf.GGUFReader))
    kept = gguf.GGUFReader, gguf.get_tensor_name_map, loader.tqdm
    gguf.GGUFReader, gguf.get_tensor_name_map = readers, names
    loader.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map, loader.tqdm = kept


def text_field(path: Path, key: str) -> str | None:
    """A text field of a GGUF file's header, None where it has none."""
    gguf: Any = import_module("gguf")
    field = gguf.GGUFReader(str(path)).get_field(key)
    return None if field is None else str(field.contents())


def mend_tokenizer(tokenizer: Any, path: Path) -> None:
    """Split digits one by one where the file asks for it (SmolLM): transformers builds a plain byte-level splitter."""
    if text_field(path, "tokenizer.ggml.pre") != "smollm":
        return
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _plain_reader(base: Any) -> Any:
    """The reader over a plain array: slicing a memmap runs Python code each time, a view of it does not."""

    class Reader(base):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if name == "data" else value)

    return Reader
