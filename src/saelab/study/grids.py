"""What the SAEs of a model are in a study file: grids that are trained, SAEs that exist and are adopted, and paths.

Checks what is known from the file alone; nothing is opened or computed here.
"""

import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from saelab.core.config import Config, Fault, Faults, faults_in
from saelab.core.errors import UserError, nearest
from saelab.core.names import LONGEST, path_part
from saelab.core.sites import ORDER, Kind, Site, find_site, parse_site
from saelab.saes.base import Freeze, TrainConfig
from saelab.saes.catalogue import ARCHITECTURES, level_key

LARGEST = 2**31  # what any count of a study may reach; more is a slip of the pen


def _known(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {name!r}; {nearest(name, ARCHITECTURES)}")
    return name


def said(check: Callable[[str], object]) -> Callable[[str], str]:
    """A validator of a text that keeps it as it stands; what `check` refuses is said of its key."""

    def kept(text: str) -> str:
        try:
            check(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    return kept


Architecture = Annotated[str, AfterValidator(_known)]
SiteName = Annotated[str, AfterValidator(said(parse_site))]
Name = Annotated[str, AfterValidator(path_part)]
Option = float | int | str | tuple[int, ...] | None  # of a training config; several numbers are widths or levels


class GridConfig(Config):
    """SAEs at some sites: every architecture, level, width, training seed, way to be frozen and length of training."""

    sites: tuple[SiteName, ...] = Field(min_length=1, description="Such as resid_post.15.")
    architectures: tuple[Architecture, ...] = Field(min_length=1, description="Which SAEs.")
    levels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="Target L0 (k for the TopK family)."
    )
    d_sae: int | tuple[int, ...] = Field(description="Features per SAE: one width or several.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="Training runs of each SAE, by number.")
    freeze: tuple[Freeze, ...] = Field(
        default=("none",),
        min_length=1,
        exclude_if=lambda kinds: kinds == ("none",),
        description="What stays as it began (decoder, encoder, soft, principal): baselines beside `none`, the SAE.",
    )
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        exclude_if=lambda steps: not steps,
        description="Optimiser steps of each SAE, each number a training of its own, instead of those of `training`.",
    )
    joint_levels: bool = Field(
        default=False,
        exclude_if=lambda joint: not joint,
        description="Whether one training of hierarchicaltopk is for all the levels and read at each of them.",
    )
    steer: bool = Field(
        default=True, description="Whether features are selected and steered with, or only trained and scored."
    )
    options: dict[str, Option] = Field(
        default_factory=dict,
        description="Other settings of their training configs, such as lr, lr_decay or preset: paper.",
    )
    start: str | None = Field(
        default=None,
        exclude_if=lambda start: start is None,
        description="A finished SAE whose weights their training begins with: anything that load_sae opens.",
    )
    start_sha256: str | None = Field(
        default=None,
        exclude_if=lambda sha256: sha256 is None,
        description="Of the weights of `start` and of how they are read. saelab fills it in; a study leaves it out.",
    )

    target: Kind | None = Field(
        default=None,
        exclude_if=lambda kind: kind is None,
        description="What is rebuilt, later in the block of each site, such as mlp_out from mlp_in: transcoders.",
    )

    @model_validator(mode="after")
    def _every_sae_can_be_trained(self) -> "GridConfig":
        if self.target is not None:
            early = [s for s in self.sites if ORDER.index(parse_site(s).kind) >= ORDER.index(self.target)]
            if early:
                what = f"{self.target} is not made after {early[0]} in its block, so it cannot be rebuilt from it"
                raise Faults([Fault(("target",), what)])
            if self.start is not None:
                raise Faults([Fault(("start",), "a transcoder begins with weights of its own")])
            if "principal" in self.freeze:
                raise Faults([Fault(("freeze",), "principal directions of one site (principal) rebuild no other")])
        if not self.widths or not 1 <= min(self.widths) <= max(self.widths) < LARGEST:
            raise Faults([Fault(("d_sae",), "must be a positive number or a list of them")])
        if self.joint_levels and not any(map(self.levels_together, self.architectures)):
            what = "no architecture of the grid is trained for several levels at once (hierarchicaltopk is)"
            raise Faults([Fault(("joint_levels",), what)])
        if self.joint_levels and self.target is not None:
            raise Faults([Fault(("joint_levels",), "a transcoder is read at the level that it is trained for")])
        found = dict.fromkeys(_untrainable(self))
        if found:
            raise Faults(list(found))
        return self

    def written(self, site: str) -> Site:
        """What the SAEs at one of its sites rebuild."""
        read = parse_site(site)
        return read if self.target is None else Site(self.target, read.layer)

    def ends(self, site: str) -> str:
        """How a name says it: `resid_post.15`, of a transcoder `from_mlp_in.mlp_out.15`."""
        return f"{'' if self.target is None else f'from_{parse_site(site).kind}.'}{self.written(site)}"

    def levels_together(self, architecture: str) -> tuple[int, ...]:
        """The levels that one training of an architecture is for; empty where each level has its own."""
        joint = self.joint_levels and "ks" in ARCHITECTURES[architecture].model_fields
        return tuple(sorted(set(self.levels))) if joint else ()

    @property
    def widths(self) -> tuple[int, ...]:
        """All widths."""
        return (self.d_sae,) if isinstance(self.d_sae, int) else self.d_sae


class FoundConfig(Config):
    """What an SAE's files said when it was opened. saelab fills it in; a study file leaves it out."""

    architecture: str = Field(description="As its files call it, by the house name where there is one.")
    site: SiteName | None = Field(default=None, description="Where it reads.")
    level: int | None = Field(default=None, ge=1, description="Its k, or the L0 that it was trained for.")
    lm: str | None = Field(default=None, description="The language model that it was trained on.")
    text: str | None = Field(default=None, description="The text that it was trained on.")
    d_in: int = Field(ge=1, description="Width of what it reads.")
    d_sae: int = Field(ge=1, description="Features.")
    sha256: str = Field(description="Of its weights and of how they are read.")


class AdoptedConfig(Config):
    """An SAE that exists, from any library, and what its files do not say."""

    ref: str = Field(description="Anything that load_sae opens: path:..., hf:..., a folder, a released SAE's name.")
    name: Name | None = Field(default=None, description="How tables call it; by default the end of `ref`.")
    site: SiteName | None = Field(default=None, description="Where it reads.")
    architecture: str | None = Field(default=None, min_length=1, description="How tables call its architecture.")
    level: int | None = Field(
        default=None, ge=1, description="Its level of L0; by default what its files say, else the L0 that is measured."
    )
    k: int | None = Field(default=None, ge=1, description="Of a TopK SAE whose files do not say it.")
    threshold: float | None = Field(default=None, ge=0, description="Of an SAE whose files do not say it.")
    input_scale: float | None = Field(default=None, gt=0, description="What it reads is multiplied by.")
    normalise: str | None = Field(default=None, description="How it normalises every token.")
    format: str | None = Field(default=None, description="Format of its files, where two could fit.")
    steer: bool = Field(default=True, description="Whether features are selected and steered with, or only scored.")
    effects: bool = Field(
        default=False,
        exclude_if=lambda on: not on,
        description="Whether every feature's effect on the next token is measured though none is steered with.",
    )
    force_lm: bool = Field(default=False, description="Score it on this LM though its files name another.")
    keep: Literal["copy", "reference"] = Field(
        default="copy",
        exclude_if=lambda keep: keep == "copy",
        description="copy: the run folder holds it. reference: only its sum is kept, and it is opened where it lies.",
    )
    as_read: bool = Field(default=False, description="Score it though another convention fits better.")
    found: FoundConfig | None = Field(default=None, description="What its files said; filled in by saelab.")

    @property
    def declared(self) -> dict[str, Any]:
        """What is said to `load_sae` of how the weights are read."""
        names = ("k", "threshold", "input_scale", "normalise", "format")
        return {n: value for n in names if (value := getattr(self, n)) is not None}

    @property
    def called(self) -> str:
        """Its name, or one made of the end of its reference."""
        if self.name is not None:
            return self.name
        parts = [part for part in re.split(r"[/\\]", self.ref.partition(":")[2] or self.ref) if part.strip(". ")]
        own = -2 if find_site(parts[-1] if parts else "") else -1  # a folder that is called by its site alone
        kept = parts[2:] if self.ref.startswith("hf:") and len(parts) > 2 else parts[own:]
        plain = re.sub(r"-{2,}", "-", re.sub(r"[^\w.@=+-]", "_", ".".join(kept)))
        return plain.removesuffix(".safetensors")[-LONGEST:].lstrip(". ")


class PathConfig(Config):
    """Features followed from site to site: one SAE of each of these sites, or these SAEs, matched pairwise in order."""

    architecture: Architecture | None = Field(default=None, description="Of the SAEs that are followed.")
    level: int | None = Field(default=None, description="Their level.")
    sites: tuple[SiteName, ...] = Field(default=(), description="Where they stand, in order.")
    d_sae: int | None = Field(default=None, description="Which width, where grids have several.")
    seed: int = Field(default=0, description="Which training run.")
    saes: tuple[Name, ...] = Field(default=(), description="The SAEs by name, instead of what is above.")

    @model_validator(mode="after")
    def _says_which(self) -> "PathConfig":
        said = {"architecture": self.architecture, "level": self.level, "sites": self.sites, "d_sae": self.d_sae}
        if self.saes and (more := [name for name, value in said.items() if value]):
            raise Faults([Fault((name,), "is said by `saes`") for name in more])
        lacking = [name for name in ("architecture", "level", "sites") if not said[name]]
        if not self.saes and lacking:
            raise Faults([Fault((name,), "Field required, or `saes`, the names of SAEs") for name in lacking])
        for name in ("saes", "sites"):
            if len(getattr(self, name)) == 1:
                raise Faults([Fault((name,), "a path needs at least two")])
        return self


def _untrainable(grid: GridConfig) -> Iterator[Fault]:
    """What keeps the training config of one of a grid's SAEs from being built."""
    own = {"architecture", "d_in", "d_out", "d_sae", "freeze", *map(level_key, grid.architectures)}
    for name in own & set(grid.options):
        yield Fault(("options", name), "is said by architectures, levels, d_sae and freeze")
    if grid.joint_levels and "ks" in grid.options:
        yield Fault(("options", "ks"), "is said by levels, which are those of one training (joint_levels)")
    for i, level in enumerate(grid.levels):
        if level >= min(grid.widths):
            yield Fault(("levels", i), f"a target L0 of {level} needs more than {min(grid.widths)} features")
    levels = [level for level in grid.levels if level < min(grid.widths)] or [1]
    for architecture, level, width in product(grid.architectures, levels, grid.widths):
        kind = ARCHITECTURES[architecture]
        said = {k: v for k, v in grid.options.items() if k not in own}
        said |= {level_key(architecture): level, "d_in": 1, "d_sae": width}
        found = [Fault(("options", *fault.where), fault.what) for fault in _refused(kind, said)]
        if not found and grid.target is not None:
            found = [Fault(("target",), fault.what) for fault in _refused(kind, said | {"d_out": 1})]
        yield from (Fault(fault.where, f"{fault.what} (of {architecture})") for fault in found)


def _refused(kind: type[TrainConfig], settings: dict[str, Any]) -> list[Fault]:
    """What is wrong with the settings of a training config."""
    try:
        kind.model_validate(settings)
    except ValidationError as error:
        return faults_in(error, kind)
    return []
