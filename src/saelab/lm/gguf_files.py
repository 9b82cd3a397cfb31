"""GGUF files: read each once, and put right what transformers does not read from them.

transformers parses a GGUF file's half million header fields three times and rebuilds its name table once per module; on
SmolLM2 that is most of the loading time. While `read_once` is open the gguf library hands out one reader per file and
one table per model, which cuts loading from 20 s to 6 s. The file's weights and fields are what gguf says they are.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def read_once() -> Iterator[set[str]]:
    """Share readers and name tables, and show no progress bar, until the context closes.

    Yields the names of the tensors that transformers has a place for, filled as it reads.
    """
    gguf: Any = import_module("gguf")
    loader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    names = cache(gguf.get_tensor_name_map)
    readers = cache(_plain_reader(gguf.GGUFReader))
    kept = gguf.GGUFReader, gguf.get_tensor_name_map, loader.tqdm
    weights_map, placed = loader.get_gguf_hf_weights_map, set[str]()

    def watched(*args: Any, **kwargs: Any) -> dict[str, str]:
        found = weights_map(*args, **kwargs)
        placed.update(found)
        return found

    loader.get_gguf_hf_weights_map = watched
    gguf.GGUFReader, gguf.get_tensor_name_map = readers, names
    loader.tqdm = lambda items, **_: items
    try:
        yield placed
    finally:
        loader.get_gguf_hf_weights_map = weights_map
        gguf.GGUFReader, gguf.get_tensor_name_map, loader.tqdm = kept


def text_field(path: Path, key: str) -> str | None:
    """A text field of a GGUF file's header, None where it has none."""
    gguf: Any = import_module("gguf")
    field = gguf.GGUFReader(str(path)).get_field(key)
    return None if field is None else str(field.contents())


def unread(path: Path, placed: Collection[str]) -> list[str]:
    """The tensors of a file that have no place in its model; `placed`: the names of those that have.

    Said of biases whose weight has one, of blocks beyond the model's, and of rotary tables: other tensors are renamed
    on the way.
    """
    gguf: Any = import_module("gguf")
    modules = {name.rpartition(".")[0] for name in placed}
    blocks = {None, *map(_block_of, placed)}
    names = [tensor.name for tensor in gguf.GGUFReader(str(path)).tensors if tensor.name not in placed]
    return [n for n in names if n.rpartition(".")[0] in modules or _block_of(n) not in blocks or n.startswith("rope_")]


def _block_of(name: str) -> str | None:
    return name.split(".")[1] if name.startswith("blk.") else None


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
