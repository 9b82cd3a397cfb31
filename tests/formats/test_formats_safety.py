"""Hostile files: nothing in them runs, nothing leaves its folder, and each is one sentence."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_saes import inputs, random_sae

from saelab.core.errors import ArtefactError, SaelabError, UserError
from saelab.saes.formats import convert_sae, load_sae, save_sae, source_of
from saelab.saes.formats.unpickle import unpickle
from saelab.store.references import parse_reference


class Malice:
    """Touches a file when unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def one_sentence(error: SaelabError) -> bool:
    return "\n" not in error.message and len(error.message) < 500


def test_the_malice_is_real(canary: Path) -> None:
    """Control: unpickled without care, it runs."""
    pickle.loads(pickle.dumps(Malice(canary)))
    assert canary.exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain pickle"])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, canary: Path, legacy: bool) -> None:
    folder = tmp_path / "bad"
    save_sae(random_sae("standard"), folder, "dictionary_learning")
    if legacy:
        (folder / "ae.pt").write_bytes(pickle.dumps(Malice(canary)))
    else:
        torch.save({"encoder.weight": Malice(canary)}, folder / "ae.pt")
    with pytest.raises(UserError, match="saelab convert"):
        load_sae(folder)
    with pytest.raises(ArtefactError, match="was not opened") as caught:
        convert_sae(folder, tmp_path / "out")
    assert one_sentence(caught.value)
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


def test_an_empty_or_cut_pickle_is_said_in_its_own_words(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path / "in", "dictionary_learning")
    whole = (tmp_path / "in" / "ae.pt").read_bytes()
    for kept, words in ((0, "is empty"), (len(whole) // 2, "archive"), (1, "no file of weights")):
        (tmp_path / "in" / "ae.pt").write_bytes(whole[:kept])
        with pytest.raises(ArtefactError, match=words) as caught:
            convert_sae(tmp_path / "in", tmp_path / "out")
        assert one_sentence(caught.value)
        assert "runpy" not in caught.value.message


def test_a_renamed_pickle_is_not_opened(tmp_path: Path, canary: Path) -> None:
    for payload in (pickle.dumps(Malice(canary)), None):
        save_sae(random_sae("standard"), tmp_path / "x")
        path = tmp_path / "x" / "sae_weights.safetensors"
        if payload is None:
            torch.save({"W_enc": Malice(canary)}, path)
        else:
            path.write_bytes(payload)
        with pytest.raises(ArtefactError, match="under the name of a safetensors file"):
            load_sae(tmp_path / "x")
    assert not canary.exists()


def test_an_object_array_in_npz_is_not_opened(tmp_path: Path, canary: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([Malice(canary)], dtype=object))
    with pytest.raises(ArtefactError, match="not a readable npz"):
        load_sae(tmp_path)
    assert not canary.exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "params.npz", W_enc=np.zeros(30_000_000, dtype=np.float32))
    assert (tmp_path / "params.npz").stat().st_size < 1_000_000
    with pytest.raises(ArtefactError, match="would unpack to"):
        load_sae(tmp_path)
    save_sae(random_sae("standard"), tmp_path / "dl", "dictionary_learning")
    with zipfile.ZipFile(tmp_path / "dl" / "ae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 30_000_000)
    with pytest.raises(ArtefactError, match="would unpack to"):
        convert_sae(tmp_path / "dl", tmp_path / "out")


@pytest.mark.parametrize("length", [2**62, 10**9, 0, 1])
def test_an_impossible_safetensors_header(tmp_path: Path, length: int) -> None:
    save_sae(random_sae("standard"), tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" * 20)
    with pytest.raises(ArtefactError, match="no safetensors file") as caught:
        load_sae(tmp_path)
    assert one_sentence(caught.value)


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path)
    source = source_of(tmp_path)
    for name in ("../secret", "/etc/passwd", "a/../../b", "", "..\\b"):
        with pytest.raises(ArtefactError, match="unsafe path"):
            source.inside(name)
    for reference in ("hf:org/name@main/../../x", "hf:org/name/../x", "pypi:a==1!../x"):
        with pytest.raises(UserError):
            parse_reference(reference)
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("../W_enc.npy", b"x")
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(ArtefactError, match="unsafe path"):
        load_sae(tmp_path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    weights = {n: t.numpy().copy() for n, t in random_sae("jumprelu").weights().items()}
    weights["b_enc"][3] = np.nan
    np.savez(tmp_path / "params.npz", **weights)
    with pytest.raises(ArtefactError, match="NaN"):
        load_sae(tmp_path)


def test_an_honest_pickle_is_converted(tmp_path: Path) -> None:
    """Control: the closed process does open what holds tensors only."""
    sae = random_sae("batchtopk")
    save_sae(sae, tmp_path / "dl", "dictionary_learning")
    convert_sae(tmp_path / "dl", tmp_path / "out")
    assert torch.allclose(load_sae(tmp_path / "out").encode(inputs()), sae.encode(inputs()), atol=1e-6)
    tensors, values = unpickle(tmp_path / "dl" / "ae.pt")
    assert "encoder.weight" in tensors
    assert values == {}


ACTS = {
    "import socket; socket.create_connection(('127.0.0.1', 9))": "PermissionError",
    "import subprocess; subprocess.run(['touch', CANARY])": "PermissionError",
    "import os; os.system('touch ' + CANARY)": "PermissionError",
    "open(CANARY, 'w')": "PermissionError",
    "open(FOLDER + '/../canary', 'w')": "PermissionError",
    "open(FOLDER + '-beside', 'w')": "PermissionError",
    "import pathlib; pathlib.Path(CANARY).write_text('x')": "PermissionError",
    "x = bytearray(50_000_000_000)": "MemoryError",
    "open(FOLDER + '/big', 'wb').write(b'0' * 30_000_000)": "OSError",
    "open(FOLDER + '/small', 'wb').write(b'0' * 30)": "done",
}


def test_the_closed_process_would_hold_if_the_unpickler_had_a_hole(tmp_path: Path, canary: Path) -> None:
    """The limits alone, around what an unpickler with a hole would run; the last act is what it may do."""
    exec("import os; os.system('touch ' + CANARY)", {"CANARY": str(canary)})
    assert canary.exists(), "control: without the limits it runs"
    canary.unlink()
    own = tmp_path / "own"
    own.mkdir()
    program = """
import signal, sys
import importlib
u = importlib.import_module("saelab.saes.formats.unpickle")
CANARY, FOLDER, acts = sys.argv[1], sys.argv[2], sys.argv[3:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
u._lock(FOLDER, 1000)
for act in acts:
    try:
        exec(act)
        print("done")
    except Exception as error:
        print(next(k.__name__ for k in (PermissionError, MemoryError, OSError, Exception) if isinstance(error, k)))
"""
    command = [sys.executable, "-c", program, str(canary), str(own), *ACTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == list(ACTS.values()), done.stderr
    assert not canary.exists()


def test_a_manifest_cannot_name_a_file_outside(tmp_path: Path) -> None:
    """A manifest that names a file outside is refused, whatever the name is spelled like."""
    save_sae(random_sae("standard"), tmp_path / "x")
    source = source_of(tmp_path / "x")
    for name in ("checkpoints/../../secret", "C:\\secret", "/", "./../secret"):
        with pytest.raises(ArtefactError, match="unsafe path"):
            source.inside(name)
