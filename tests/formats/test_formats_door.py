"""The door of formats: files are known by their structure, facts are used or refused, nothing is written over."""

import json
import math
import pickle
import shutil
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sample_saes import inputs, random_sae

from saelab.core.errors import ArtefactError, SaelabError, UserError
from saelab.saes.architectures.matching_pursuit import SETTINGS
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.catalogue import MODULES
from saelab.saes.formats import FORMATS, convert_sae, load_latents, load_sae, save_sae
from saelab.saes.formats.source import check_safetensors, fault_of, finite, floats

WRITTEN = [name for name, kind in FORMATS.items() if kind.write is not None]
D_SAE = (*range(1000, 21_000, 500), *(2**n for n in range(7, 17)))
SIZES = [(d, f) for d in (64, 512, 576, 768, 1024, 2304) for f in D_SAE]  # 300 pairs


def header_of(length: int) -> bytes:
    """A safetensors file of no tensors whose header has a given length."""
    return struct.pack("<Q", length) + b"{}".ljust(length)


def test_every_header_length_is_a_safetensors_file() -> None:
    """Lengths 128 modulo 256 begin with 0x80, as a pickle does; 0x4b50 modulo 65,536 with "PK", as an archive does."""
    for length in (*range(8, 4097), 0x4B50, 0x4B50 + 0x10000):
        data = header_of(length)
        assert fault_of(BytesIO(data), len(data)) is None


def test_a_pickle_of_any_protocol_is_none(tmp_path: Path) -> None:
    """Control: what is a pickle or an archive is still called one, whatever its second byte."""
    path = tmp_path / "x.safetensors"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": list(range(99))}, protocol))
        with pytest.raises(ArtefactError, match="is a pickle or an archive"):
            check_safetensors(path)
    torch.save({"W": torch.zeros(3)}, path)
    with pytest.raises(ArtefactError, match="is a pickle or an archive"):
        check_safetensors(path)
    for odd in (b"", b"\x80", header_of(64)[:-1], struct.pack("<Q", 9) + b"[1, 2, 3]"):
        path.write_bytes(odd)
        with pytest.raises(ArtefactError, match="is no safetensors file"):
            check_safetensors(path)


def of_size(kind: str, d_in: int, d_sae: int) -> Sae:
    """An SAE of zeros: only the sizes of its tensors matter to a header."""
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    weights = {n: torch.zeros(shapes.get(n, (d_sae,))) for n in MODULES[kind].weight_names()}
    settings = dict(zip(SETTINGS, (0.5, None, True), strict=True)) if kind == "matching_pursuit" else {}
    return MODULES[kind](SaeConfig(architecture=kind, d_in=d_in, d_sae=d_sae, k=3, settings=settings), weights)


def resized(written: bytes, sizes: dict[int, int]) -> tuple[bytes, int]:
    """The head of a file with other sizes of its tensors, and the length of the whole file."""
    header, end = json.loads(written[8 : 8 + struct.unpack("<Q", written[:8])[0]]), 0
    for entry in header.values():
        entry["shape"] = [sizes[n] for n in entry["shape"]]
        start, end = end, end + 4 * math.prod(entry["shape"])
        entry["data_offsets"] = [start, end]
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + end


@pytest.mark.parametrize("kind", MODULES)
def test_what_is_written_is_known_at_every_size(tmp_path: Path, kind: str) -> None:
    """The head of what is written, with 300 other sizes; some begin as a pickle does."""
    path = tmp_path / "sae_weights.safetensors"
    save_sae(of_size(kind, 3, 5), tmp_path)
    written, heads = path.read_bytes(), set()
    save_sae(of_size(kind, 7, 40), tmp_path)
    head, size = resized(written, {3: 7, 5: 40})
    assert path.read_bytes().startswith(head) and path.stat().st_size == size  # the head is what the library writes
    for d_in, d_sae in SIZES:
        head, size = resized(written, {3: d_in, 5: d_sae})
        assert fault_of(BytesIO(head), size) is None
        heads.add(head[:1])
    assert b"\x80" in heads or kind != "jumprelu"


@pytest.mark.parametrize("kind", MODULES)
def test_our_own_open_again(tmp_path: Path, kind: str) -> None:
    """At a size whose files were called pickles (JumpReLU), and at the least one."""
    for d_in, d_sae in ((576, 16_384), (1, 3)):
        save_sae(of_size(kind, d_in, d_sae), tmp_path)
        assert (load_sae(tmp_path).cfg.d_in, load_sae(tmp_path).cfg.d_sae) == (d_in, d_sae)


def test_a_finite_sum_is_asked_first_and_never_alone() -> None:
    """Large entries of one sign overflow their sum and are still finite; opposite infinities do not cancel."""
    assert finite(torch.full((1000,), 3e38)) and finite(torch.full((9,), 6e4, dtype=torch.float16))
    for bad in ([float("nan"), 1.0], [float("inf"), float("-inf")], [float("inf")]):
        assert not finite(torch.tensor(bad))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_matrices_of_other_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    save_sae(random_sae("standard"), tmp_path)
    sae = load_sae(tmp_path)
    save_file(sae.weights() | {"W_enc": sae.W_enc.to(dtype)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ArtefactError, match=r"'W_enc' of type .*16 to 64 bits"):
        load_sae(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_floating_weights_are_read_as_float32(dtype: torch.dtype) -> None:
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = floats({"W": weights, "k": torch.tensor(3)}, "a file")
    assert found["W"].dtype == torch.float32 and torch.equal(found["W"], weights.float())
    assert found["k"].dtype == torch.int64


@pytest.mark.parametrize("shape", [(2, 16, 48), (16,), ()])
def test_a_matrix_of_another_number_of_axes_is_a_sentence(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_sae(random_sae("standard"), tmp_path)
    save_file(load_sae(tmp_path).weights() | {"W_enc": torch.zeros(shape)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ArtefactError, match="of shape"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        ("standard", {"k": 5}),
        ("jumprelu", {"k": 5}),
        ("standard", {"threshold": 0.5}),
        ("jumprelu", {"threshold": 0.5}),
        ("topk", {"input_scale": 2.0}),
    ],
)
def test_a_declared_fact_that_nothing_uses_is_refused(tmp_path: Path, kind: str, declared: dict[str, Any]) -> None:
    save_sae(random_sae(kind), tmp_path)
    with pytest.raises(UserError, match=f"was given {next(iter(declared))}"):
        load_sae(tmp_path, **declared)


@pytest.mark.parametrize("to", WRITTEN)
def test_a_few_latents_are_those_of_the_whole(tmp_path: Path, to: str) -> None:
    save_sae(random_sae("topk" if to == "sparsify" else "jumprelu"), tmp_path, to)
    if FORMATS[to].pickle is not None:
        with pytest.raises(UserError, match="saelab convert"):
            load_latents(tmp_path, [1])
        return
    whole, rows = load_sae(tmp_path), load_latents(tmp_path, [5, 2])
    assert torch.equal(rows["W_dec"], whole.W_dec[[5, 2]]) and torch.equal(rows["W_enc"], whole.W_enc[:, [5, 2]])
    assert torch.equal(rows["b_dec"], whole.b_dec) and torch.equal(rows["b_enc"], whole.b_enc[[5, 2]])
    for odd in (-1, whole.cfg.d_sae):
        with pytest.raises(UserError, match=f"Latent {odd} does not exist"):
            load_latents(tmp_path, [0, odd])


def test_latents_are_whole_numbers_of_any_iterable(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path)
    expected = load_latents(tmp_path, [5, 2])["W_dec"]
    for same in ((5, 2), np.array([5, 2]), [np.int32(5), np.uint8(2)], (i for i in (5, 2)), torch.tensor([5, 2])):
        assert torch.equal(load_latents(tmp_path, same)["W_dec"], expected)
    for odd in ([1.7], [True], 3, ["1"], [None], "12", None, np.array([True]), np.array([1.0]), torch.tensor([True])):
        with pytest.raises(UserError, match=r"is no index|no list of indices"):
            load_latents(tmp_path, odd)


@pytest.mark.parametrize(
    "name", [f"{start}{'x' * 300}{end}" for start in ("", "path:", "./", "~no-one/") for end in ("", ".pt")]
)
def test_a_name_that_no_disk_holds_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="There is no" if not name.endswith(".pt") else "There is no|is a pickle"):
        load_sae(name)
    with pytest.raises(UserError, match="There is no"):
        convert_sae(name, tmp_path / "new")


def test_a_target_that_no_disk_holds_is_a_sentence(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path / "source")
    for write in (lambda to: convert_sae(tmp_path / "source", to), lambda to: save_sae(random_sae("standard"), to)):
        with pytest.raises(UserError, match="could not be written") as caught:
            write(tmp_path / ("x" * 300))
        assert "shorter name" in str(caught.value.hint)
        write(tmp_path / "new")  # control
        shutil.rmtree(tmp_path / "new")


def test_a_named_format_beats_a_map_that_lies_there(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path)
    (tmp_path / "saelab.yaml").write_text("tensors: {W_enc: no_such_tensor}\n")
    assert load_sae(tmp_path, format="saelens").cfg.d_in
    for format in (None, "tensors"):  # control
        with pytest.raises(UserError, match="The map of"):
            load_sae(tmp_path, format=format)


def test_a_few_latents_are_checked_and_the_others_are_not(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path)
    weights = load_sae(tmp_path).weights()
    weights["W_dec"][7, 3] = float("nan")
    save_file(weights, tmp_path / "sae_weights.safetensors")
    assert load_latents(tmp_path, [6])["W_dec"].shape[0] == 1
    for read in (lambda: load_latents(tmp_path, [6, 7]), lambda: load_sae(tmp_path)):
        with pytest.raises(ArtefactError, match="NaN or infinite values in 'W_dec'"):
            read()


def test_a_declared_fact_that_is_used_is_not_refused(tmp_path: Path) -> None:
    save_sae(random_sae("topk"), tmp_path)
    found = load_sae(tmp_path, site="resid_post.7", lm="path:here")
    assert (found.cfg.site, found.cfg.lm) == ("resid_post.7", "path:here")


@pytest.mark.parametrize(
    "declared", [{"k": 0}, {"k": -3}, {"threshold": float("nan")}, {"threshold": float("inf")}, {"input_scale": 0.0}]
)
def test_impossible_facts_are_a_sentence(tmp_path: Path, declared: dict[str, Any]) -> None:
    save_sae(random_sae("topk"), tmp_path)
    with pytest.raises(UserError, match=f"What was declared .*{next(iter(declared))}"):
        load_sae(tmp_path, **declared)


@pytest.mark.parametrize(
    "text", ["\ufeff{}", "[1]", "{", '{"k": ' + "9" * 5000 + "}", "[" * 100_000, "\udcff", "{}" + " " * 21_000_000]
)
def test_odd_json_is_a_sentence(tmp_path: Path, text: str) -> None:
    save_sae(random_sae("standard"), tmp_path)
    (tmp_path / "cfg.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SaelabError) as caught:
        load_sae(tmp_path)
    assert "\n" not in caught.value.message


def test_a_mark_at_the_head_of_a_config_changes_nothing(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path)
    before = load_sae(tmp_path)
    config = tmp_path / "cfg.json"
    config.write_text("\ufeff" + config.read_text())
    assert load_sae(tmp_path).cfg == before.cfg


def test_weights_can_be_read_by_whoever_may_read_the_config(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert len(set(modes.values())) == 1, modes


@pytest.mark.parametrize("to", WRITTEN)
def test_convert_writes_into_no_folder_that_holds_anything(tmp_path: Path, to: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    save_sae(random_sae("topk" if to in ("sparsify", "dictionary_learning") else "jumprelu"), source)
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    for place in (source, tmp_path / "link"):
        if place != source:
            place.symlink_to(source)
        with pytest.raises(UserError, match="is where the source's files lie"):
            convert_sae(source, place, to=to, replace=True)
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already holds notes\.txt; nothing was written.*--replace"):
        convert_sae(source, target, to=to)
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before
    assert [p.name for p in target.iterdir()] == ["notes.txt"]
    (target / "deep").mkdir()
    with pytest.raises(UserError, match="deep is no plain file"):
        convert_sae(source, target, to=to, replace=True)
    (target / "deep").rmdir()
    convert_sae(source, target, to=to, replace=True)
    assert "notes.txt" not in [p.name for p in target.iterdir()]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "source", "target"]


def test_a_conversion_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    save_sae(random_sae("gated"), tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="sparsify holds TopK"):
        convert_sae(tmp_path / "source", tmp_path / "target", to="sparsify", replace=True)
    assert [p.name for p in (tmp_path / "target").iterdir()] == ["notes.txt"]


def test_one_folder_does_not_become_two_formats(tmp_path: Path) -> None:
    save_sae(random_sae("topk"), tmp_path, "sparsify")
    with pytest.raises(UserError, match="already holds an SAE as sparsify"):
        save_sae(random_sae("topk"), tmp_path, "saelens")
    x = inputs()
    assert load_sae(tmp_path).encode(x).shape[0] == len(x)
