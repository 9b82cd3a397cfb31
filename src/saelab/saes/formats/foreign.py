"""Configs of other libraries, typed before anything is done with them.

A format declares the keys that it uses and their types; a value of another type is one sentence. Keys that nobody here
knows are kept by name, for the format to refuse or to say that they were ignored. This file must never know a format.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

from saelab.core.config import Config

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Foreign(Config):
    """A config of another library: text is no number and a list no text, whatever it could be turned into."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    def unknown(self) -> list[str]:
        """Names of the keys that the format does not declare, sorted."""
        return sorted(self.model_extra or {})
