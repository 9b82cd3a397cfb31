"""One language model of a study file and what is done with it. What SAEs are in a study file is in grids.py."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from saelab.core.config import Config, Fault, Faults
from saelab.core.names import path_part
from saelab.lm.sources import SHORT_NAMES, named
from saelab.store.references import Reference, parse_reference
from saelab.study.grids import AdoptedConfig, GridConfig, Name, PathConfig, said


class ModelConfig(Config):
    """One language model and what is done with it."""

    lm: Annotated[str, AfterValidator(said(named))] = Field(
        description="Short name or reference of the language model."
    )
    name: Name | None = Field(default=None, description="How it is called in tables; by default the end of `lm`.")
    control: Literal["shuffled_weights"] | None = Field(
        default=None,
        exclude_if=lambda control: control is None,
        description="shuffled_weights: the entries of every weight tensor change places, so that what is left of its "
        "SAEs' scores is owed to no learning. Its features are not steered with.",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Type in which the LM runs; auto: bfloat16 where the machine multiplies it."
    )
    device: str = Field(
        default="auto",
        description="Where the LM runs: auto (CUDA where there is a card, else the CPU), cpu, cuda, cuda:1 or mps.",
    )
    template: str | None = Field(
        default=None, description="How it is asked instead of by its chat template: a text that holds {instruction}."
    )
    system: str | None = Field(default=None, description="System prompt of every chat, where its template takes one.")
    grids: tuple[GridConfig, ...] = Field(default=(), description="SAEs that are trained.")
    saes: tuple[AdoptedConfig, ...] = Field(default=(), description="SAEs that exist, beside those of grids.")
    paths: tuple[PathConfig, ...] = Field(default=(), description="Features followed from site to site.")

    @property
    def reference(self) -> str:
        """What the files of its SAEs say of it: of a control no name by which anything is loaded."""
        return self.lm if self.control is None else f"{self.lm} ({self.control})"

    @model_validator(mode="after")
    def _has_a_name_and_a_template(self) -> "ModelConfig":
        try:
            path_part(self.key)
        except ValueError as error:
            raise Faults([Fault(("lm",), f"gives no name for tables: {error}. Say one with `name`.")]) from None
        if self.template is not None and "{instruction}" not in self.template:
            raise Faults([Fault(("template",), "does not hold {instruction}")])
        if self.template is not None and self.system is not None:
            raise Faults([Fault(("system",), "would not be read beside a template; write it into the template")])
        if not self.grids and not self.saes:
            raise Faults([Fault(("grids",), "say which SAEs: `grids` to train, or `saes` that exist")])
        return self

    @property
    def key(self) -> str:
        """A name fit for a folder."""
        if self.name is not None:
            return self.name
        own = self.lm
        if self.lm not in SHORT_NAMES:
            where: Reference = parse_reference(self.lm)
            own = Path(where.inside or where.name).name
        return own if self.control is None else f"{own}.{self.control}"
