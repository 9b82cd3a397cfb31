"""What an explorer has before it: SAEs of runs and by themselves, with all that is known of their features.

Opening reads settings and tables, never a language model; weights, the model and the material are read when first asked
for. What is not there is named with the command that makes it. Must never know a page or a server.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote

import numpy as np
import polars as pl

from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.explore.index import FeatureIndex
from saelab.explore.made import kept_there, made_by_run, made_here
from saelab.explore.material import QuantileContext, SaeMaterial
from saelab.explore.opening import OpenedSae, open_saes
from saelab.explore.partners import Partner, Partners, Place
from saelab.lm.model import LanguageModel
from saelab.lm.sources import the_one
from saelab.store.layout import RunFolder
from saelab.study.names import CONTROLS

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Missing:
    """What is not there of an SAE, and the command that makes it. why: of what is there but damaged, how."""

    sae: str
    what: str
    command: str
    why: str = ""


@dataclass(frozen=True)
class Placed:
    """A number of one feature beside those of all features of its SAE that have one. share: how many are lower."""

    value: float
    share: float
    quantiles: tuple[float, ...]
    n: int


@dataclass(frozen=True)
class SteeredText:
    """What the model wrote with a feature. scores: how much the text is what the feature stands for, by outcome."""

    arms: tuple[str, ...]
    prompt: str
    text: str
    strength: float | None
    dose: float | None
    scores: Mapping[str, float | None]


class Explored:
    """SAEs that are open. Safe to ask from several threads."""

    def __init__(self, saes: Sequence[OpenedSae], *, lm: str | None = None, progress: Progress = SILENT):
        self.saes = {one.name: one for one in saes}
        self.progress = progress
        self._asked_lm = lm
        self._lock = threading.RLock()
        self._model: tuple[str, LanguageModel] | None = None
        self._making = {one.name: threading.RLock() for one in saes}  # while one is made, the others are there
        self._materials: dict[str, SaeMaterial] = {}
        self._tables: dict[tuple[str, str], pl.DataFrame | None] = {}
        self._faults: dict[tuple[str, str], str] = {}

    @property
    def names(self) -> list[str]:
        """What the SAEs are called here."""
        return list(self.saes)

    def opened(self, name: str) -> OpenedSae:
        """One SAE. Raises `UserError` for a name that is not open."""
        if name not in self.saes:
            raise UserError(f"No SAE {name} is open.", hint=f"There are {', '.join(self.names)}.")
        return self.saes[name]

    def check(self, name: str, feature: int) -> None:
        """Raises `UserError` for an SAE that is not open, or a feature that it does not have."""
        size = self.opened(name).d_sae
        if not 0 <= feature < size:
            raise UserError(f"There is no feature {feature}: {name} has 0 to {size - 1}.")

    @property
    def lm_name(self) -> str:
        """The language model that is asked for, or the one that the SAEs name."""
        return self._asked_lm or the_one(list(dict.fromkeys(one.lm for one in self.saes.values() if one.lm)))

    @property
    def lm(self) -> LanguageModel:
        """The language model, read when first asked for."""
        return self._loaded(self.lm_name)

    def _loaded(self, name: str) -> LanguageModel:
        """A language model; the last one is kept."""
        with self._lock:
            if self._model is None or self._model[0] != name:
                self._model = None  # let the former go before the next is read
                self._model = (name, LanguageModel.load(name))
            return self._model[1]

    # --- what is kept of features ---

    def has_material(self, name: str) -> bool:
        """Whether the material of an SAE is there already, whole."""
        folder = self.opened(name).material_folder
        return name in self._materials or (folder.manifest.exists and kept_there(folder))

    def damaged(self, name: str, what: str) -> list[str]:
        """A sentence where something of an SAE is there but cannot be read; it counts as not there."""
        if what == "material":
            there = self.opened(name).material_folder.manifest.exists and not self.has_material(name)
            return ["The material of this SAE is damaged or not whole; it is made anew."] if there else []
        return [self._faults[name, what]] if (name, what) in self._faults else []

    def material(self, name: str) -> SaeMaterial:
        """The material of an SAE, made where it is not there yet."""
        one = self.opened(name)
        with self._making[name]:
            if name not in self._materials:
                if not self.has_material(name):
                    self._make(one)
                    for known in ("index", "missing"):
                        self.__dict__.pop(known, None)
                self._materials[name] = SaeMaterial(one.material_folder.root)
            return self._materials[name]

    def _make(self, one: OpenedSae) -> None:
        folder, lm = one.material_folder, self._loaded(self._asked_lm or one.lm or self.lm_name)
        if one.run is not None and one.spec is not None:
            made_by_run(lm, one.sae, one.run, one.spec, folder, progress=self.progress)
        else:
            made_here(lm, one.sae, one.text, folder, progress=self.progress)

    @cached_property
    def index(self) -> FeatureIndex:
        """All features of all SAEs, as far as anything is known of them."""
        found = [self._rows(one) for one in self.saes.values()]
        held = {n: self.material(n) for n in self.names if self.has_material(n)}
        about = {m.what: f"{m.command} makes it." for m in self.missing}
        return FeatureIndex(pl.concat(found, how="diagonal_relaxed"), held, about)

    def _rows(self, one: OpenedSae) -> pl.DataFrame:
        rows = pl.DataFrame({"feature": np.arange(one.d_sae)})
        columns = ["feature", "density", "max_activation", "description"]
        features = self._table(one.name, "features")
        if self.has_material(one.name):
            rows = self.material(one.name).columns(columns)
        elif features is not None:
            rows = features.select(columns)
        if "max_activation" in rows.columns:
            state = pl.when(pl.col("max_activation") > 0).then(pl.lit("live")).otherwise(pl.lit("dead"))
            rows = rows.with_columns(state.alias("state"))
        if features is not None:
            told = {"balanced_accuracy": "interpretability", "auroc": "auroc"}
            rows = rows.join(features.select("feature", *told).rename(told), on="feature", how="left")
        effects = self._table(one.name, "effects")
        if effects is not None:
            rows = rows.join(effects.select("feature", *_measures(effects)), on="feature", how="left")
        if (lifts := self._lifts(one.name)) is not None:
            rows = rows.join(lifts, on="feature", how="left")
        partners = self.partners_of_run(one)
        for extra in (partners.classes(one.name), partners.stability(one.name)) if partners else ():
            if extra is not None:
                rows = rows.join(extra, on="feature", how="left")
        return rows.select(pl.lit(one.name).alias("sae"), pl.all())

    def _lifts(self, name: str) -> pl.DataFrame | None:
        """Of every steered feature its lift by each outcome, under `<outcome>_lift`."""
        outcomes = self._table(name, "outcomes")
        if outcomes is None:
            return None
        once = outcomes.unique(["feature", "outcome"], keep="first", maintain_order=True)
        wide = once.pivot(on="outcome", index="feature", values="lift")
        return wide.rename({c: f"{c}_lift" for c in wide.columns if c != "feature"})

    def _table(self, name: str, of: str) -> pl.DataFrame | None:
        if (name, of) not in self._tables:
            try:
                self._tables[name, of] = self.opened(name).table(of)
            except ArtefactError as error:  # one file stops one SAE's page, not the others'
                self._tables[name, of] = None
                self._faults[name, of] = error.message
        return self._tables[name, of]

    # --- one feature ---

    def effects(self, name: str, feature: int) -> dict[str, Placed]:
        """What the feature does to the model's predictions, beside the other features of its SAE that were measured."""
        return self._placed(self._table(name, "effects"), feature)

    def interpretability(self, name: str, feature: int) -> dict[str, Placed]:
        """How well its description tells texts on which it fires, beside those of its SAE that were tested."""
        features = self._table(name, "features")
        wanted = ("balanced_accuracy", "auroc", "embedding_auroc")
        return self._placed(None if features is None else features.select("feature", *wanted), feature)

    def largest_contexts(self, name: str, feature: int) -> list[QuantileContext]:
        """The contexts of a feature's largest values that its run has kept; older runs keep no other material."""
        contexts = self._table(name, "contexts")
        if contexts is None:
            return []
        own = contexts.filter(pl.col("feature") == feature).sort("rank").drop_nulls(["tokens", "activations", "peak"])
        return [
            QuantileContext("top", tuple(r["tokens"]), tuple(r["activations"]), r["peak"], r["document"])
            for r in own.iter_rows(named=True)
        ]

    def in_brief(self, name: str, feature: int) -> tuple[float | None, float | None]:
        """Density and largest value of a feature as its run has measured them; None where it has not."""
        features = self._table(name, "features")
        own = None if features is None else features.filter(pl.col("feature") == feature)
        if own is None or not own.height:
            return None, None
        return own["density"][0], own["max_activation"][0]

    def lifts(self, name: str, feature: int) -> dict[str, Placed]:
        """By how much steering with it moved texts towards what it stands for, beside the other steered features."""
        return self._placed(self._lifts(name), feature)

    @staticmethod
    def _placed(table: pl.DataFrame | None, feature: int) -> dict[str, Placed]:
        found: dict[str, Placed] = {}
        if table is None:
            return found
        for measure in _measures(table):
            known = table.select("feature", measure).filter(pl.col(measure).is_finite())
            own, all_ = known.filter(pl.col("feature") == feature)[measure], known[measure].to_numpy()
            if len(own):
                value = float(own[0])
                spread = tuple(float(q) for q in np.quantile(all_, QUANTILES))
                found[measure] = Placed(value, float((all_ < value).mean()), spread, len(all_))
        return found

    def steered(self, name: str, feature: int) -> list[SteeredText]:
        """The texts that its run wrote with the feature; none where it was not steered."""
        readings, outcomes = self._table(name, "readings"), self._table(name, "outcomes")
        if readings is None or outcomes is None:
            return []
        own = outcomes.filter(pl.col("feature") == feature)
        arms = tuple(own["arm"].unique(maintain_order=True).to_list())
        dose = own["dose"][0] if own.height and "dose" in own.columns else None
        ends = [c.removesuffix("_lift") for c in readings.columns if c.endswith("_lift")]
        return [
            SteeredText(arms, r["prompt"], r["text"], r["strength"], dose, {c: r[c] for c in ends})
            for r in readings.filter(pl.col("feature") == feature).iter_rows(named=True)
        ]

    def partners_of_run(self, one: OpenedSae) -> Partners | None:
        """The matchings of an SAE's run; None where it is of none."""
        return self._partners.get(one.run.root) if one.run is not None else None

    @cached_property
    def _partners(self) -> dict[Path, Partners]:
        runs: dict[Path, dict[str, OpenedSae]] = {}
        for one in self.saes.values():
            if one.run is not None and one.spec is not None:
                runs.setdefault(one.run.root, {})[one.spec.name] = one
        return {
            root: Partners(
                RunFolder(root),
                {own: one.name for own, one in saes.items()},
                {own: {"site": one.site, "seed": one.spec.seed if one.spec else None} for own, one in saes.items()},
            )
            for root, saes in runs.items()
        }

    def partners(self, name: str, feature: int) -> list[Partner]:
        """What the feature corresponds to in other SAEs of its run, as far as they were matched."""
        found = self.partners_of_run(self.opened(name))
        return found.of(name, feature) if found else []

    def path(self, name: str, feature: int) -> list[Place]:
        """The feature followed through the sites of its run, itself included."""
        found = self.partners_of_run(self.opened(name))
        return found.path(name, feature) if found else [(name, feature)]

    def neuronpedia(self, name: str, feature: int) -> str | None:
        """The feature's page on Neuronpedia, where the SAE's files name it there."""
        known = self.opened(name).sae.cfg.metadata.get("neuronpedia_id")
        if not isinstance(known, str) or not known.replace("/", "").replace("-", "").replace(".", "").isalnum():
            return None
        return f"https://www.neuronpedia.org/{known}/{feature}"

    # --- what is not there ---

    @cached_property
    def missing(self) -> list[Missing]:
        """What there is nothing of, SAE by SAE, each with the command that makes it."""
        return [m for one in self.saes.values() for m in self._lacking(one)]

    def _lacking(self, one: OpenedSae) -> list[Missing]:
        ref = quote(one.reference)
        alone = f"saelab evaluate {ref} --only"  # what an SAE of no run is made one by
        again = None if one.run is None else f"saelab run {quote(str(one.run.study))} --out {quote(str(one.run.root))}"
        partners = self.partners_of_run(one)
        matched = partners is not None and any(one.name in (partners.names[p] for p in pair) for pair in partners.pairs)
        lacking = {
            "material": (self.has_material(one.name), f"saelab explore {ref}"),
            "interpretability": (
                self._table(one.name, "features") is not None,
                again or f"{alone} interp",
            ),
            "effects": (self._table(one.name, "effects") is not None, again or f"{alone} effects"),
            "steering": (self._table(one.name, "outcomes") is not None, again or f"{alone} steer"),
            "partners": (matched, again or f"saelab evaluate {ref} OTHER --only match"),
        }
        tables = {"interpretability": "features", "steering": "outcomes"}
        return [
            Missing(one.name, what, command, " ".join(self.damaged(one.name, tables.get(what, what))))
            for what, (there, command) in lacking.items()
            if not there
        ]


def _measures(table: pl.DataFrame) -> list[str]:
    """Its columns of numbers, without those of controls, which know nothing of a feature."""
    kinds = zip(table.columns, table.dtypes, strict=True)
    return [name for name, kind in kinds if kind.is_float() and name not in CONTROLS]


def open_explored(
    refs: Sequence[str | Path], *, lm: str | None = None, text: str | None = None, progress: Progress = SILENT
) -> Explored:
    """Open run folders, SAEs in them, and SAEs by themselves.

    refs: run folders, or references or folders of SAEs. lm: language model, by default the one that the SAEs name.
    text: for SAEs of no run, what their features are read from (path: or hf:), by default the text that their files
    name if it lies here, else the embedded corpus.
    Raises `UserError` for what is neither run nor SAE.
    """
    return Explored(open_saes(refs, lm=lm, text=text, progress=progress), lm=lm, progress=progress)
