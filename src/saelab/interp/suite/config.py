"""Which evaluations of the suite are run, and at what size.

Presets: `paper` has SAEBench's sizes where the data allow, `small` is for a small LM on a few cores, `tiny` for tests
and rehearsals. Their settings are in the file of each evaluation, and this file must never know them.
"""

from typing import Literal

from pydantic import Field, field_validator

from saelab.core.config import Config
from saelab.core.errors import nearest
from saelab.interp.suite.catalogue import CATALOGUE

Preset = Literal["paper", "small", "tiny"]


class SuiteConfig(Config):
    """Which of SAEBench's evaluations are run, and at what size."""

    preset: Preset = Field(default="small", description="paper, small or tiny.")
    only: tuple[str, ...] = Field(default=(), description="Only these; none: all.")
    ravel: str | None = Field(
        default=None, description="Folder of RAVEL's tables (path:...); without it there is no ravel."
    )
    against: str | None = Field(
        default=None, description="Folder of SAEBench result files (path:...), set beside as they were published."
    )
    seed: int = Field(default=42, description="The root of all draws of the suite.")

    @field_validator("only")
    @classmethod
    def _evaluations_exist(cls, only: tuple[str, ...]) -> tuple[str, ...]:
        for kind in only:
            if kind not in CATALOGUE:
                raise ValueError(f"there is no evaluation {kind!r}. {nearest(kind, CATALOGUE)}")
        return only

    @property
    def kinds(self) -> tuple[str, ...]:
        """The evaluations, in the order in which they are run."""
        asked = (e for e in CATALOGUE.values() if not self.only or e.kind in self.only)
        return tuple(e.kind for e in asked if e.needs is None or getattr(self, e.needs))
