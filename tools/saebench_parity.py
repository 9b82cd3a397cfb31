"""SAEBench's own per-SAE functions and saelab's, on the same SAE, language model and texts.

    pip install --target extra einops
    PYTHONPATH=extra python tools/saebench_parity.py RUN SAE

RUN is a run folder with the suite done (`saelab interp RUN --preset small`), SAE one of its SAEs. The wheel sae-bench
0.6.0 is fetched and its functions are imported; what they only name (sae_lens, transformer_lens, nnsight, seaborn) is a
stand-in, and the model that they call is saelab's behind transformer_lens' three methods. Texts, tasks, probes' data
and latents are given to both, so what differs is what is computed. Prints one row per measure.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import jaxtyping
import numpy as np
import polars as pl
import torch
from torch import Tensor

from saelab.adapters.saebench import to_saebench
from saelab.interp.suite import absorption, core, scr, sparse_probing, tpp
from saelab.interp.suite.data_sets import ClassSet
from saelab.interp.suite.evaluation import SiteSuite
from saelab.interp.suite.pooled import TextActivations, pool_codes
from saelab.interp.suite.probes import LinearProbe
from saelab.interp.suite.scr import PairSet
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.store.layout import RunFolder
from saelab.store.references import fetch
from saelab.study.spec import StudyConfig
from saelab.study.workspace import Workspace

STANDINS = ("sae_lens", "transformer_lens", "nnsight", "seaborn", "tabulate", "sae_probes")
# Tolerances of SAEBench's own acceptance tests (spec 14); `mse` and the like have none of their own.
TOLERANCE = {"core": 0.02, "sparse_probing": 0.04, "tpp": 0.04, "scr": 0.08, "absorption": 0.06}


class Standin(ModuleType):
    """A module whose every name exists and does nothing; type annotations are all that is made of them."""

    __path__ = ()  # type: ignore[assignment]  # a package without files

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[0].isupper() else MagicMock()


class Finder:
    """Gives stand-ins for the libraries that are named and not used."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        from importlib.machinery import ModuleSpec

        del path, target
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in STANDINS else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> ModuleType:
        return Standin(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        del module


@dataclass
class Hooked:
    """saelab's language model behind the calls that SAEBench makes."""

    lm: LanguageModel
    site: str
    name: str

    def run_with_cache(self, tokens: Tensor, **_: Any) -> tuple[None, dict[str, Tensor]]:
        return None, {self.name: self.lm.run_to(tokens, [self.site])[self.site]}

    def run_with_hooks(self, tokens: Tensor, *, fwd_hooks: list[tuple[str, Callable]], **_: Any) -> Any:
        ((_name, hook),) = fwd_hooks
        return self._both(tokens, hook(self.lm.run_to(tokens, [self.site])[self.site], None))

    def __call__(self, tokens: Tensor, **_: Any) -> Any:
        return self._both(tokens, self.lm.run_to(tokens, [self.site])[self.site])

    def _both(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.lm.run_from(hidden, self.site)
        loss = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        return logits, loss


@dataclass
class Store:
    """Batches of the given tokens, in order, again and again."""

    tokens: Tensor
    at: int = 0

    def get_batch_tokens(self, size: int) -> Tensor:
        part = self.tokens[self.at : self.at + size]
        self.at = (self.at + size) % len(self.tokens)
        return part


Row = tuple[str, str, float | None, float | None]


def core_rows(site: SiteSuite, sae: Sae, theirs: Any) -> Iterator[Row]:
    """core, without densities (those are on other text in saelab)."""
    from sae_bench.evals.core import main as bench  # type: ignore[import-not-found]

    shared = site.shared[core.KIND]
    clean, config = shared.clean, core.PRESETS[site.config.preset]
    mine = core.evaluate(site.text.lm, shared, sae, config)
    size = min(config.batch_size_prompts, len(clean.tokens))
    model = Hooked(site.text.lm, clean.site, theirs.cfg.hook_name)
    ignore, n = set(site.text.special), len(clean.tokens) // size
    flags = {"compute_kl": True, "compute_ce_loss": True, "ignore_tokens": ignore}
    lost = bench.get_downstream_reconstruction_metrics(
        theirs, model, Store(clean.tokens), n_batches=n, eval_batch_size_prompts=size,
        exclude_special_tokens_from_reconstruction=True, **flags,
    )  # fmt: skip
    shape, latents = bench.get_sparsity_and_variance_metrics(
        theirs, model, Store(clean.tokens), n_batches=n, compute_l2_norms=True, compute_sparsity_metrics=True,
        compute_variance_metrics=True, compute_featurewise_density_statistics=True, eval_batch_size_prompts=size,
        model_kwargs={}, ignore_tokens=ignore,
    )  # fmt: skip
    own = {metric: value for metrics in mine.metrics.values() for metric, value in metrics.items()}
    for metric, value in {**lost, **shape}.items():
        yield "core", metric, own[metric], value
    geometry = bench.get_featurewise_weight_based_metrics(theirs)
    for metric, value in bench.calculate_misc_metrics({**latents, **geometry}).items():
        yield "core", metric, own[metric], value
    column = np.array([row["encoder_decoder_cosine_sim"] for row in mine.details])
    cosines = float(np.mean(geometry["encoder_decoder_cosine_sim"]))
    yield "core", "encoder_decoder_cosine_sim (mean)", float(column.mean()), cosines


def probing_rows(site: SiteSuite, sae: Sae) -> Iterator[Row]:
    """Sparse probing on the same pooled activations and classes; their negatives are drawn by them."""
    from sae_bench.evals.sparse_probing import probe_training as bench  # type: ignore[import-not-found]

    config = sparse_probing.PRESETS[site.config.preset]
    for data_set in sparse_probing.EVALUATION.data_sets(site.config):
        assert isinstance(data_set, ClassSet)
        part = site.texts(data_set)
        data, _ = data_set.tasks(site.config.seed)
        codes = pool_codes(sae, part.read)
        mine = sparse_probing.probe_tasks(codes, part.tasks, config.k_values, "sae", site.config.seed, data_set.name)
        train, test = by_class(codes, data.labels, data_set)
        for k in config.k_values:
            torch.manual_seed(42)
            with quiet():
                _, found = bench.train_probe_on_activations(train, test, select_top_k=k, use_sklearn=True)
            key = f"sae_top_{k}_test_accuracy"
            own = [row[key] or 0.0 for row in mine.values()]
            yield "sparse_probing", f"{data_set.name} {key}", float(np.mean(own)), float(np.mean(list(found.values())))


def tpp_rows(site: SiteSuite, sae: Sae, theirs: Any) -> Iterator[Row]:
    """TPP from the tokens' activations, with the same probes."""
    from sae_bench.evals.scr_and_tpp import main as bench  # type: ignore[import-not-found]

    config = tpp.PRESETS[site.config.preset]
    for data_set in tpp.EVALUATION.data_sets(site.config):
        assert isinstance(data_set, ClassSet)
        part = site.texts(data_set)
        data, _ = data_set.tasks(site.config.seed)
        probes, clean, tokens, test_tokens = their_probes(padded(part.read), part.x, data.labels, data_set)
        same = tpp.with_probes(part.x, part.tasks, [as_ours(probes[task.label]) for task in part.tasks])
        drops = tpp.perturb(same, part.x, pool_codes(sae, part.read), sae.W_dec, config.n_values)
        mine = tpp.evaluation({"x": drops}, {}).metrics["tpp_metrics"]
        names = list(tokens)
        with quiet():
            effects = bench.get_all_node_effects_for_one_sae(theirs, probes, names, False, tokens, 64)
            after = bench.perform_feature_ablations(
                probes, theirs, 64, test_tokens, effects, list(config.n_values), names, 500, False
            )
            found, _ = bench.create_tpp_plotting_dict(after, clean)
        for n in config.n_values:
            key = f"tpp_threshold_{n}_total_metric"
            yield "tpp", f"{data_set.name} {key}", mine[key], found[key]


def scr_rows(site: SiteSuite, sae: Sae, theirs: Any) -> Iterator[Row]:
    """SCR from the tokens' activations, on the same quadrants, with the same probes."""
    from sae_bench.evals.scr_and_tpp import main as bench  # type: ignore[import-not-found]
    from sae_bench.evals.sparse_probing import probe_training  # type: ignore[import-not-found]

    config = scr.PRESETS[site.config.preset]
    for data_set in scr.EVALUATION.data_sets(site.config):
        assert isinstance(data_set, PairSet)
        part = site.texts(data_set)
        tasks = part.tasks
        rows = padded(part.read)
        keys = {
            "male / female": (tasks.attribute, True), "female_data_only": (tasks.attribute, False),
            "professor / nurse": (tasks.concept, True), "nurse_data_only": (tasks.concept, False),
            "male_professor / female_nurse": (tasks.both, True), "female_nurse_data_only": (tasks.both, False),
        }  # fmt: skip
        where = {
            side: {k: getattr(s, side)[getattr(s, f"{side}_y") == sign] for k, (s, sign) in keys.items()}
            for side in ("train", "test")
        }
        pooled = [{k: part.x[w] for k, w in where[side].items()} for side in ("train", "test")]
        tokens, test_tokens = ({k: rows[w] for k, w in where[side].items()} for side in ("train", "test"))
        names = ["male / female", "professor / nurse", "male_professor / female_nurse"]
        torch.manual_seed(42)
        with quiet():
            probes, _ = trained(probe_training, {k: pooled[0][k] for k in keys}, {k: pooled[1][k] for k in keys}, names)
            same = scr.with_probes(part.x, tasks, *(as_ours(probes[n]) for n in (names[1], names[0], names[2])))
            mine = scr.remove(same, part.x, pool_codes(sae, part.read), sae.W_dec, config.n_values)
            clean = bench.get_probe_test_accuracy(probes, names, pooled[1], 500, True)
            results = {}
            for how, encoder in {"": theirs, ", nothing of padded positions": unpadded(theirs)}.items():
                effects = bench.get_all_node_effects_for_one_sae(encoder, probes, names, True, tokens, 64)
                after = bench.perform_feature_ablations(
                    probes, encoder, 64, test_tokens, effects, list(config.n_values), names, 500, True
                )
                results[how] = bench.get_scr_plotting_dict(after, clean)
        for how, found in results.items():
            for n in config.n_values:
                key = f"scr_metric_threshold_{n}"
                yield "scr", f"{data_set.pair.data} {key}{how}", _number(mine.get(key)), found.get(key)


def absorption_rows(site: SiteSuite, sae: Sae, theirs: Any) -> Iterator[Row]:
    """Their calculator on the same words, probes and letter latents."""
    from sae_bench.evals.absorption.feature_absorption_calculator import (  # type: ignore[import-not-found]
        FeatureAbsorptionCalculator,
    )

    spelled, config = site.shared[absorption.KIND], absorption.PRESETS[site.config.preset]
    words = spelled.words
    with torch.no_grad():
        train, test = sae.encode(words.train), sae.encode(words.test)
    one_hot = words.train_letters[:, None] == torch.arange(26)
    chosen = absorption.fit_together(train, one_hot, site.config.seed, "k-sparse", batch_size=4096, l1=0.01,
                                     epochs=config.k_sparse_probe_num_epochs, weight_decay=1e-6)  # fmt: skip
    means: dict[str, list[float]] = {"mine": [], "theirs": [], "full": [], "their full": []}
    for c in [c for c, f1 in enumerate(spelled.f1) if f1 > config.min_GT_probe_f1]:
        hit = (words.test_letters == c) & (spelled.probes.scores(words.test)[:, c] > 0)
        if not bool(hit.any()):
            continue
        latents = absorption.letter_latents(
            chosen.weight[c], train, words.train_letters == c, test, words.test_letters == c, config
        )
        x = words.again[hit]
        with torch.inference_mode():
            fraction, full = absorption.absorbed(spelled.probes.weight[c], x, sae.encode(x), sae.W_dec, latents)
        calculator = FeatureAbsorptionCalculator(model=GivenWords(x, theirs.cfg.hook_name), icl_word_list=["x"])  # type: ignore[arg-type]
        calculator._build_prompts = lambda given: [SimpleNamespace(base=w, word=w) for w in given]
        found = calculator.calculate_absorption(
            theirs, [str(i) for i in range(len(x))], spelled.probes.weight[c], latents.tolist(),
            int(theirs.cfg.hook_layer), show_progress=False,
        )  # fmt: skip
        means["mine"].append(float(fraction.mean()))
        means["full"].append(float(full.float().mean()))
        means["theirs"].append(float(np.mean([w.absorption_fraction for w in found.word_results])))
        means["their full"].append(float(np.mean([w.is_full_absorption for w in found.word_results])))
    if means["mine"]:
        yield "absorption", "mean_absorption_fraction", np.mean(means["mine"]), np.mean(means["theirs"])
        yield "absorption", "full_absorption_rate", np.mean(means["full"]), np.mean(means["their full"])


@dataclass
class GivenWords:
    """A model that has only to hand out activations of words by number."""

    x: Tensor
    name: str

    def to_tokens(self, text: str) -> Tensor:
        del text
        return torch.zeros(1, 3)

    def run_with_cache(self, texts: list[str], **_: Any) -> tuple[None, dict[str, Tensor]]:
        return None, {self.name: self.x[[int(t) for t in texts]][:, None].expand(-1, 2, -1)}


def padded(read: TextActivations) -> Tensor:
    """[N, L, D] with zero rows where a text has ended: how SAEBench tells padding."""
    lengths = torch.bincount(read.text, minlength=read.n_texts)
    out = torch.zeros(read.n_texts, int(lengths.max()), read.rows.shape[1])
    starts = lengths.cumsum(0) - lengths
    out[read.text, torch.arange(len(read.text)) - starts[read.text]] = read.rows.float()
    return out


def by_class(x: Tensor, labels: tuple[str, ...], data_set: ClassSet) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train and test rows of every class."""
    rows = {c: np.flatnonzero(np.array(labels) == c) for c in dict.fromkeys(labels)}
    n = data_set.n_train
    return {c: x[w[:n]] for c, w in rows.items()}, {c: x[w[n:]] for c, w in rows.items()}


def their_probes(rows: Tensor, x: Tensor, labels: tuple[str, ...], data_set: ClassSet) -> Any:
    """Their probes on pooled activations, clean accuracies, and the tokens of both sides by class."""
    from sae_bench.evals.sparse_probing import probe_training  # type: ignore[import-not-found]

    train, test = by_class(x, labels, data_set)
    torch.manual_seed(42)
    with quiet():
        probes, clean = trained(probe_training, train, test, list(train), scr=False)
    return probes, clean, *by_class(rows, labels, data_set)


def trained(bench: Any, train: dict, test: dict, names: list[str], *, scr: bool = True) -> Any:
    """Probes with SAEBench's settings of SCR and TPP."""
    probes, clean = {}, {}
    for name in names:
        x, y = bench.prepare_probe_data(train, name, scr)
        tx, ty = bench.prepare_probe_data(test, name, scr)
        probes[name], clean[name] = bench.train_probe_gpu(
            x, y, tx, ty, dim=x.shape[1], batch_size=16, epochs=20, lr=1e-3, verbose=False,
            early_stopping_patience=20, l1_penalty=1e-3,
        )  # fmt: skip
    return probes, clean


def unpadded(sae: Any) -> Any:
    """Their SAE with no codes where a row is zero: their ablation takes latents out of padded positions too."""
    return SimpleNamespace(
        W_dec=sae.W_dec,
        decode=sae.decode,
        encode=lambda x: sae.encode(x) * (x != 0).any(-1, keepdim=True),
    )


def as_ours(probe: Any) -> LinearProbe:
    """Their probe: both score the same ones, since two trainings of a probe on so few texts differ by more than the
    tolerances.
    """
    return LinearProbe(probe.net.weight.detach().flatten().float(), float(probe.net.bias))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Their progress lines aside."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _number(value: float | int | None) -> float | None:
    return None if value is None else float(value)


def graphs(run: RunFolder) -> None:
    """Their graphing code on the files of the run: it has to read them all."""
    from sae_bench.sae_bench_utils import graphing_utils  # type: ignore[import-not-found]

    folders = [str(p) for p in sorted(run.saebench.iterdir()) if p.name not in ("ravel", "meta_structure")]
    files = graphing_utils.find_eval_results_files(folders)
    found = graphing_utils.get_eval_results(files)
    cores = graphing_utils.get_core_results(graphing_utils.find_eval_results_files([str(run.saebench / "core")]))
    print(f"graphing_utils read {len(files)} files of {len(found)} SAEs; l0 and ce_loss_score of {len(cores)}")


def schemas(run: RunFolder) -> None:
    """Their pydantic classes on the files of the run."""
    import importlib

    from pydantic import TypeAdapter

    where = {
        "core": ("core", "CoreEvalOutput"), "sparse_probing": ("sparse_probing", "SparseProbingEvalOutput"),
        "scr": ("scr_and_tpp", "ScrEvalOutput"), "tpp": ("scr_and_tpp", "TppEvalOutput"),
        "absorption": ("absorption", "AbsorptionEvalOutput"), "autointerp": ("autointerp", "AutoInterpEvalOutput"),
        "ravel": ("ravel", "RAVELEvalOutput"), "meta_structure": ("meta_structure", "MetaStructureEvalOutput"),
        "sparse_probing_sae_probes": ("sparse_probing_sae_probes", "SparseProbingSaeProbesEvalOutput"),
    }  # fmt: skip
    for folder in sorted(run.saebench.iterdir()):
        package, name = where[folder.name]
        kind = getattr(importlib.import_module(f"sae_bench.evals.{package}.eval_output"), name)
        files = sorted(folder.glob("*.json"))
        for file in files:
            TypeAdapter(kind).validate_json(file.read_bytes())
        print(f"{folder.name}: {len(files)} files validate")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("sae")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON lines")
    parser.add_argument("--kinds", nargs="+", choices=list(TOLERANCE), default=list(TOLERANCE))
    arguments = parser.parse_args()
    # Their checks of shapes name the texts of one class and those of a balanced task alike, and newer jaxtyping minds.
    jaxtyping.config.update("jaxtyping_disable", True)
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
    sys.path.insert(0, str(fetch("pypi:sae-bench==0.6.0")))
    run = RunFolder(arguments.run.absolute())
    schemas(run)
    graphs(run)
    work = Workspace(StudyConfig.from_yaml(run.study), run)
    sae = work.sae(arguments.sae)
    site, theirs = work.site_suite(work.saes[arguments.sae]), to_saebench(work.sae(arguments.sae))
    theirs.cfg.architecture_str = theirs.cfg.architecture  # type: ignore[attr-defined]  # as their loader sets it
    made = {
        "core": lambda: core_rows(site, sae, theirs),
        "sparse_probing": lambda: probing_rows(site, sae),
        "tpp": lambda: tpp_rows(site, sae, theirs),
        "scr": lambda: scr_rows(site, sae, theirs),
        "absorption": lambda: absorption_rows(site, sae, theirs),
    }
    rows = []
    for kind, measure, mine, other in (row for name in arguments.kinds for row in made[name]()):
        apart = None if mine is None or other is None else abs(mine - other)
        rows.append((kind, measure, mine, other, apart, TOLERANCE[kind]))
    columns = ["kind", "measure", "saelab", "sae_bench", "difference", "tolerance"]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    with pl.Config(tbl_rows=-1, fmt_str_lengths=80, tbl_width_chars=160):
        print(table)
    if arguments.out:
        table.write_ndjson(arguments.out)


if __name__ == "__main__":
    main()
