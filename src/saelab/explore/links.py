"""Where the pages lie: as a server answers them, and as files of a folder that is opened from disk.

A template asks for a page and never writes an address. Must never know what a page shows.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import quote, urlencode

FILE_POLICY = "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' data: file:"


@dataclass(frozen=True)
class ServedLinks:
    """Addresses of a running server."""

    live = True
    policy = ""
    pages = "/sae/"

    def home(self) -> str:
        """All features."""
        return "/"

    def static(self, name: str) -> str:
        """A script, a style or an icon."""
        return f"/static/{name}"

    def feature(self, sae: str, feature: int, kind: str = "") -> str:
        """A feature's page, or with a kind (md, json, py) the same as a file."""
        return f"/sae/{quote(sae, safe='')}/{feature}{'.' * bool(kind)}{kind}"

    def path(self, sae: str, feature: int) -> str:
        """A feature through the layers."""
        return f"/path/{quote(sae, safe='')}/{feature}"

    def page(self, name: str, **asked: str | int | list[str]) -> str:
        """Another page, such as text, steer or compare, with what it is asked."""
        return f"/{name}" + (f"?{urlencode(asked, doseq=True)}" if asked else "")


@dataclass(frozen=True)
class FileLinks:
    """Addresses from one file of a folder to another, so that the folder can be put anywhere.

    here: the file that holds the link. written: the features that have a page; a link to another is empty.
    """

    here: str
    written: Collection[tuple[str, int]] = field(default=(), repr=False)
    live = False
    policy = FILE_POLICY

    @property
    def pages(self) -> str:
        """What is before an SAE's name in the address of a feature."""
        return self._to("sae/")

    def home(self) -> str:
        """All features."""
        return self._to("index.html")

    def static(self, name: str) -> str:
        """A script, a style or an icon."""
        return self._to(f"static/{name}")

    def feature(self, sae: str, feature: int, kind: str = "") -> str:
        """A feature's page, or the same as a file."""
        if (sae, feature) not in self.written:
            return ""
        return self._to(quote(feature_file(sae, feature, kind or "html")))

    def path(self, sae: str, feature: int) -> str:
        """There is none: a feature's partners stand on its page."""
        del sae, feature
        return ""

    def page(self, name: str, **asked: str | int | list[str]) -> str:
        """There is none: these pages need the language model."""
        del name, asked
        return ""

    def _to(self, place: str) -> str:
        return "../" * (len(PurePosixPath(self.here).parts) - 1) + place


Links = ServedLinks | FileLinks


def feature_file(sae: str, feature: int, kind: str) -> str:
    """The file of a feature in an exported folder; what file systems do not take in an SAE's name is spelled out."""
    return f"sae/{folder_name(sae)}/{feature}.{kind}"


def folder_name(sae: str) -> str:
    """An SAE's name as one folder."""
    name = quote(sae, safe=" ()+,=@[]{}~").replace("%", "_")
    return name if name.strip(".") else f"_{name}"
