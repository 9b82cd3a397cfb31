"""Archives and names that others made: nothing of them runs, leaves its folder, floods the disk or changes unseen."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from saelab.core.errors import ArtefactError, FetchError, SaelabError, UserError
from saelab.store import wheels
from saelab.store.archives import check_archive
from saelab.store.files import sha256_of
from saelab.store.paths import inside, unsafe
from saelab.store.references import fetch, parse_reference


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its index, and a cache of our own."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path / "cache"))
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def wheel(folder: Path, content: dict[str, str], name: str = "good") -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    own = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in (content | own).items():
            archive.writestr(member, text)
    return path


def sdist(folder: Path, canary: Path) -> Path:
    """A source distribution whose build back end leaves a trace when pip only looks at it."""
    back_end = (
        f"open({str(canary)!r}, 'w').close()\ndef prepare_metadata_for_build_wheel(d, c=None): raise SystemExit\n"
    )
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n',
        "own.py": back_end,
    }
    path = folder / "evil-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"evil-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_a_source_distribution_is_never_built(index: Path, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    path = sdist(index, canary)
    for reference in ("pypi:evil==1.0", f"pypi:evil==1.0!file#{sha256_of(path)}"):
        with pytest.raises(FetchError, match="as a wheel"):
            fetch(reference)
    assert not canary.exists()


def test_a_wheel_is_fetched_by_pip_and_read_as_data(index: Path) -> None:
    """Control: the same index gives a wheel."""
    path = wheel(index, {"data/a.txt": "hello", "good/__init__.py": "raise SystemExit"})
    assert fetch(f"pypi:good==1.0!data/a.txt#{sha256_of(path)}").read_text() == "hello"


def test_what_is_cached_is_read_as_it_was_unpacked(index: Path) -> None:
    path = wheel(index, {"data/a.txt": "hello", "data/b.txt": "there", "c.txt": "x"})
    reference = f"pypi:good==1.0!data#{sha256_of(path)}"
    folder = fetch(reference)
    (folder / "a.txt").write_text("hellp")
    for name in (reference, "pypi:good==1.0!data/a.txt", "pypi:good==1.0"):
        with pytest.raises(ArtefactError, match=r"a\.txt is not as it was unpacked"):
            fetch(name)
    assert fetch("pypi:good==1.0!data/b.txt").read_text() == "there", "control: another file is as it was"
    (folder / "a.txt").write_text("hello")
    assert fetch(reference) == folder
    (folder / "more.txt").write_text("added")
    with pytest.raises(ArtefactError, match=r"more\.txt"):
        fetch(reference)
    (folder / "more.txt").unlink()
    (folder / "b.txt").unlink()
    with pytest.raises(ArtefactError, match=r"b\.txt"):
        fetch(reference)


def test_a_cache_of_before_is_checked_against_the_wheels_own_list(index: Path) -> None:
    wheel(index, {"a.txt": "hello", "b.txt": "x"})
    folder = fetch("pypi:good==1.0")
    first = (folder / wheels.SEAL).read_text().split("\n")[0]
    (folder / wheels.SEAL).write_text(first + "\n")
    record = next(folder.glob("*.dist-info")) / "RECORD"
    record.write_text("a.txt,sha256=LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ,5\n")  # of "hello"
    assert fetch("pypi:good==1.0!a.txt").read_text() == "hello"
    with pytest.raises(ArtefactError, match=r"b\.txt"):
        fetch("pypi:good==1.0!b.txt")
    record.unlink()
    with pytest.raises(ArtefactError, match="does not say what it was unpacked from"):
        fetch("pypi:good==1.0!a.txt")


def test_a_wheel_that_would_flood_the_disk_is_not_unpacked(index: Path, tmp_path: Path) -> None:
    path = wheel(index, {"zeros.bin": "0" * 60_000_000})
    assert path.stat().st_size < 200_000
    with pytest.raises(ArtefactError, match="would unpack to 60,000"):
        fetch("pypi:good==1.0")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


LEAVING = ("/etc/passwd", "../x", "a/../../x", "C:/x", "a\\..\\..\\x", "a\x00b", "a\nb", "")


@pytest.mark.parametrize("name", LEAVING)
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert unsafe(name)
    with pytest.raises(ArtefactError, match="unsafe path"):
        inside(tmp_path, name, origin="a test")


@pytest.mark.parametrize("name", ["a", "a/b.c", "..a/b..", "layer 3/Ünïcode.txt"])
def test_other_names_are_joined(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, origin="a test") == tmp_path / name


@pytest.mark.parametrize("name", [n for n in LEAVING if n and "\x00" not in n])
def test_members_of_archives_are_looked_at_first(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    if "\\" not in name:  # the library itself writes these as they stand
        with pytest.raises(ArtefactError, match="unsafe path"):
            check_archive(path)


@pytest.mark.parametrize(
    "reference",
    [
        "pypi:good==1.0!/etc/passwd", "pypi:good==1.0!../../x", "pypi:good==../../x!a", "pypi:good==/etc!a",
        "pypi:--index-url==1.0!a", "pypi:-r==1.0", "hf:a/b//etc/passwd", "hf:a/b@main//etc", "hf:a/b/../../x",
        "hf:../b", "hf:-a/b",
    ],
)  # fmt: skip
def test_a_reference_stays_where_it_is_kept(reference: str) -> None:
    with pytest.raises(UserError):
        parse_reference(reference)


def test_an_indexs_password_is_not_shown(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wheels.without_password("at https://me:sk-canary@host/simple/ no") == "at https://host/simple/ no"
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:sk-canary@127.0.0.1:9/simple")
    with pytest.raises(SaelabError) as caught:
        fetch("pypi:absent==1.0")
    assert "sk-canary" not in str(caught.value)
