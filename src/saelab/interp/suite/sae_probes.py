"""k-sparse probing on the binary sets of Kantamneni et al. (2502.16681), with regularisation chosen by validation.

Activation: the last token of each text. Latents are ranked by |mean_pos - mean_neg| on train after every column is
divided by its mean where active; the first k feed a logistic regression with L1 (saga), its C one of ten from 1e5 to
1e-5 by validation AUC, refitted on all of train. Beside it the same routine with L2 on all of the LM's coordinates.
Test accuracy, AUC and weighted F1; means over sets. Source: SAEBench `sparse_probing_sae_probes` (0.6.0), sae-probes
0.4.2, whose texts (MIT) are read from its wheel and whose code is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from saelab.core.classifiers import auroc, logistic
from saelab.core.config import Config
from saelab.core.progress import Progress
from saelab.core.seeds import numpy_generator, seed_of
from saelab.interp.suite import labelled
from saelab.interp.suite.config import Preset, SuiteConfig
from saelab.interp.suite.data_sets import DataSet, Tensors
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, SiteSuite, Subject
from saelab.interp.suite.labelled import LabelledData, binary_sets
from saelab.interp.suite.pooled import read_ids
from saelab.interp.suite.probes import Split
from saelab.interp.suite.result import Metrics, Result, averaged
from saelab.lm.model import LanguageModel

KIND = "sparse_probing_sae_probes"
ALL_K = (1, 2, 5, 10, 20, 50, 100)
MEASURES = ("accuracy", "auc", "f1")
COSTS = np.logspace(5, -5, 10)
DEVIATIONS = ("named generators per set in place of one seed", "sets of the wheel that are not binary are left out")
Penalty = Literal["l1", "l2"]

# Twelve sets of different kinds: people, headlines, facts, ethics, linguistics, sentiment, topics, languages of code.
SMALL = (
    "5_hist_fig_ismale",
    "22_headline_isobama",
    "36_sciq_tf",
    "50_deon_isvalid",
    "87_glue_cola",
    "92_glue_sst2",
    "96_spam_is",
    "105_click_bait",
    "121_us_timezone_New_York",
    "126_art_type_book",
    "149_twt_emotion_happiness",
    "162_agnews_1",
)


class SaeProbesConfig(Config):
    """Which sets, how many texts, how many latents."""

    dataset_names: tuple[str, ...] = Field(default=(), description="Sets by file name; none: all binary ones.")
    most_rows: int = Field(default=5000, ge=120, description="Rows of a set that are looked at.")
    most_train: int = Field(default=1024, ge=16, description="Texts to train on, half of each class.")
    context: int = Field(default=1024, ge=8, description="Tokens of a text; what is over is cut from its beginning.")
    ks: tuple[int, ...] = Field(default=(1, 2, 5), description="Numbers of latents.")

    @property
    def names(self) -> tuple[str, ...]:
        """The sets, spelt out."""
        return self.dataset_names or binary_sets()


PRESETS: Mapping[Preset, SaeProbesConfig] = {
    "paper": SaeProbesConfig(),
    "small": SaeProbesConfig(dataset_names=SMALL, most_rows=230, most_train=130, context=128),
    "tiny": SaeProbesConfig(dataset_names=SMALL[5:7], most_rows=120, most_train=40, context=32, ks=(1, 2)),
}


@dataclass(frozen=True)
class BinaryTask:
    """One set: its texts in the order that they are read, and which of them train and test."""

    name: str
    texts: tuple[str, ...]
    split: Split


def task_of(data: LabelledData, config: SaeProbesConfig, seed: int) -> BinaryTask | None:
    """The balanced task of a set; None where it is not binary or a class is too small to be tested.

    The positive class is the last in the order of names, as a label encoder has it.
    """
    rows = data.take(range(min(config.most_rows, len(data.texts))))
    labels = sorted(set(rows.labels))
    if len(labels) != 2:
        return None
    n_train = min(len(rows.texts) - 100, config.most_train) // 2
    sides: dict[bool, list[np.ndarray]] = {}
    for positive, label in zip((False, True), labels, strict=True):
        drawn = numpy_generator(seed, "sae-probes", data.name, label).permutation(rows.rows(label))
        sides[positive] = [drawn[:n_train], drawn[n_train:]]
    n_test = min(len(sides[False][1]), len(sides[True][1]))
    if n_train < 8 or n_test < 8:
        return None
    order = numpy_generator(seed, "sae-probes order", data.name)
    parts: list[np.ndarray] = []
    for part, n in ((0, n_train), (1, n_test)):
        chosen = np.concatenate([sides[False][part][:n], sides[True][part][:n]])
        mixed = order.permutation(len(chosen))  # validation takes the last rows, so classes are mixed
        parts += [chosen[mixed], mixed >= n]
    used = rows.take(np.concatenate(parts[::2]).tolist())
    cut = len(parts[0])
    return BinaryTask(data.name, used.texts, Split(np.arange(cut), parts[1], np.arange(cut, len(used.texts)), parts[3]))


def rank_latents(codes: Float[Tensor, "N F"], y: Bool[np.ndarray, " N"]) -> list[int]:
    """All latents, the most telling first."""
    scaled = codes / (codes.abs().sum(0) / ((codes != 0).sum(0) + 1e-6) + 1e-30)
    difference = (scaled[y].mean(0) - scaled[~y].mean(0)).abs()
    return difference.argsort(descending=True, stable=True).tolist()


def probe_latents(codes: Float[Tensor, "N F"], split: Split, ks: Sequence[int], *names: str | int) -> Metrics:
    """`sae_top_{k}_test_{accuracy, auc, f1}` of one SAE on one set."""
    order = rank_latents(codes[split.train], split.train_y)
    found: Metrics = {}
    for k in ks:
        scores = fitted_scores(codes[:, order[:k]].double().numpy(), split, "l1", *names, k)
        found |= {f"sae_top_{k}_test_{m}": v for m, v in scores.items()}
    return found


def probe_whole(x: Float[Tensor, "N D"], split: Split, *names: str | int) -> Metrics:
    """`llm_test_{accuracy, auc, f1}`: all coordinates of the LM, L2."""
    return {f"llm_test_{m}": v for m, v in fitted_scores(x.double().numpy(), split, "l2", *names).items()}


def fitted_scores(x: Float[np.ndarray, "N K"], split: Split, penalty: Penalty, *names: str | int) -> dict[str, float]:
    """Fit as above on the train rows and score the test rows."""
    from sklearn.metrics import f1_score

    seed = seed_of("sae-probes", *names) % 2**31
    train, y = x[split.train], split.train_y
    folds = _folds(len(train), y, seed)
    validated = [np.mean([_auc(train, y, rows, c, penalty, seed) for rows in folds]) for c in COSTS]
    model = _fit(train, y, COSTS[int(np.argmax(validated))], penalty, seed)
    said, test_y = model.predict(x[split.test]), split.test_y
    return {
        "accuracy": float((said == test_y).mean()),
        "auc": auroc(model.predict_proba(x[split.test])[:, 1], test_y),
        "f1": float(f1_score(test_y, said, average="weighted")),
    }


def evaluation(
    llm: Mapping[str, Metrics], sae: Mapping[str, Metrics], config: SaeProbesConfig, left_out: Sequence[str] = ()
) -> Result:
    """Means over the sets, with upstream's extra table by k."""
    names = {
        "llm": [f"llm_test_{m}" for m in MEASURES],
        "sae": ["sae_test_accuracy", *(f"sae_top_{k}_test_{m}" for k in ALL_K for m in MEASURES)],
    }
    rows = {name: {**llm[name], **row} for name, row in sae.items()}
    means = averaged(list(rows.values()))
    metrics = {side: {key: means.get(key) for key in keys} for side, keys in names.items()}
    details = [
        {"dataset_name": name, **{key: row.get(key) for keys in names.values() for key in keys}}
        | {"sae_metrics_by_k": _by_k(row, config.ks)}
        for name, row in rows.items()
    ]
    settings = config.model_dump() | {
        "dataset_names": list(rows), "left_out": list(left_out), "reg_type": "l1", "setting": "normal",
        "binarize": False, "deviations": list(DEVIATIONS),
    }  # fmt: skip
    return Result(KIND, metrics, settings, details, extra={"sae_metrics_by_k": _by_k(means, config.ks)})


def _by_k(row: Metrics, ks: Sequence[int]) -> dict[str, dict[str, Any]]:
    return {str(k): {f"test_{m}": row.get(f"sae_top_{k}_test_{m}") for m in MEASURES} for k in ks}


def _folds(n: int, y: Bool[np.ndarray, " N"], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and validation rows: six folds below 128 rows, else the last fifth (at most 100)."""
    from sklearn.model_selection import StratifiedKFold

    rows = np.arange(n)
    if n < 128:
        splits = StratifiedKFold(n_splits=6, shuffle=True, random_state=seed).split(rows, y)
        return [(a, b) for a, b in splits if len(np.unique(y[b])) == 2]
    cut = n - min(n // 5, 100)
    return [(rows[:cut], rows[cut:])]


def _auc(
    x: np.ndarray, y: np.ndarray, rows: tuple[np.ndarray, np.ndarray], cost: float, penalty: Penalty, seed: int
) -> float:
    fit, held = rows
    if len(np.unique(y[held])) < 2:
        return 0.5
    return auroc(_fit(x[fit], y[fit], cost, penalty, seed).predict_proba(x[held])[:, 1], y[held])


def _fit(x: np.ndarray, y: np.ndarray, cost: float, penalty: Penalty, seed: int) -> Any:
    settings: dict[str, Any] = {"l1_ratio": 1.0, "solver": "saga"} if penalty == "l1" else {}
    return logistic(x, y, cost=float(cost), random_state=seed, **settings)


class ProbeSets(DataSet):
    """The sets of sae-probes, the last token of each text."""

    kind: Literal["sets"] = "sets"
    config: SaeProbesConfig

    @property
    def key(self) -> str:
        """Its name on disk."""
        return f"sets.{self.config.digest()[:12]}"

    def tasks(self, seed: int) -> tuple[list[BinaryTask], list[str]]:
        """The tasks in the order in which they are read, and the sets that cannot be tasks."""
        made = [(name, task_of(labelled.load_labelled(name), self.config, seed)) for name in self.config.names]
        return [t for _, t in made if t is not None], [name for name, t in made if t is None]

    def read(self, lm: LanguageModel, sites: Sequence[str], seed: int, progress: Progress) -> dict[str, Tensors]:
        """Activations of last tokens, by site: one tensor per set."""
        tasks, _ = self.tasks(seed)
        ids = lm.tokenize([text for task in tasks for text in task.texts])
        context = self.config.context
        found = read_ids(lm, ids, sites, context=context, cut="left", last=True, progress=progress)
        sizes = [len(task.texts) for task in tasks]
        return {
            site: {t.name: part.clone() for t, part in zip(tasks, read.rows.split(sizes), strict=True)}
            for site, read in found.items()
        }


@dataclass(frozen=True)
class SetsRead:
    """The sets at a site: activations by set, tasks, the sets that are none, the LM's own scores."""

    x: Mapping[str, Float[Tensor, "N D"]]
    tasks: Sequence[BinaryTask]
    left_out: Sequence[str]
    llm: Mapping[str, Metrics]


def _data_sets(config: SuiteConfig) -> list[ProbeSets]:
    return [ProbeSets(config=PRESETS[config.preset])]


def _prepare(site: SiteSuite) -> SetsRead:
    (data,), seed = _data_sets(site.config), site.config.seed
    tasks, left_out = data.tasks(seed)
    tensors = site.load(data.key)
    x = {task.name: tensors[task.name].float() for task in tasks}
    return SetsRead(x, tasks, left_out, {t.name: probe_whole(x[t.name], t.split, seed, t.name) for t in tasks})


def _evaluate(subject: Subject, shared: SetsRead) -> Result:
    config, seed, rows = PRESETS[subject.site.config.preset], subject.site.config.seed, {}
    for task in shared.tasks:
        with torch.inference_mode():
            codes = subject.sae.encode(shared.x[task.name])
        rows[task.name] = probe_latents(codes, task.split, config.ks, seed, task.name)
    return evaluation(shared.llm, rows, config, shared.left_out)


EVALUATION = Evaluation(KIND, PRESETS, _evaluate, _prepare, _data_sets, saebench=SaebenchFile(KIND))
