"""Batch files as Neuronpedia's importer takes them: `batch-<n>.json` with the features that fired, a folder per SAE.

The layout is that of SAEDashboard's NeuronpediaRunner. Bars of histograms are middles of steps, one for each height. A
context of the largest values has the bin (-1, largest, -1), one of a fifth the bounds of that fifth and its share. What
is not kept here (a histogram of logits, correlated neurons) is an empty list, as the importer allows. Nothing is sent.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch

from saelab.core.progress import SILENT, Progress
from saelab.core.sites import parse_site
from saelab.explore.material import FeatureMaterial, QuantileContext, SaeMaterial
from saelab.explore.opened import Explored
from saelab.interp.features.spread import BANDS
from saelab.store.files import filling, write_text

TOGETHER = 128  # features of a batch
ALIGNED = 3  # neurons named
DIGITS = 5  # that count


def write_neuronpedia(
    explored: Explored,
    folder: Path,
    *,
    sae_set: str | None = None,
    dataset: str = "",
    progress: Progress = SILENT,
) -> list[Path]:
    """Write the features of every SAE that is open; returns the files.

    sae_set: what Neuronpedia is to call the SAEs, by default the name of each. dataset: of the text that was read, by
    its name on the hub. Raises `UserError` where the folder holds anything.
    """
    written: list[Path] = []
    with filling(folder) as target:
        for name in explored.names:
            one, material = explored.opened(name), explored.material(name)
            head = {
                "model_id": (one.lm or explored.lm_name).rpartition("/")[2],
                "layer": parse_site(one.site or "").layer,
                "sae_set": sae_set or name,
                "sae_id_suffix": None,
            }
            place = target / name.replace(":", "_")
            place.mkdir()
            with progress.task(f"writing {name}", len(material.live), "features") as task:
                rows = _features(material, one.sae.W_dec, dataset)
                for number in range(-(-len(material.live) // TOGETHER)):
                    batch = head | {"features": list(islice(rows, TOGETHER))}
                    path = place / f"batch-{number}.json"
                    write_text(path, json.dumps(batch, allow_nan=False, ensure_ascii=False))
                    written.append(path)
                    task.advance(len(batch["features"]))
            dead = sorted(set(range(material.n_features)) - set(material.live.tolist()))
            path = place / "skipped_indexes.json"
            write_text(path, json.dumps(head | {"skipped_indexes": dead}))
            written.append(path)
    return [folder / path.relative_to(target) for path in written]


def _features(material: SaeMaterial, decoder: torch.Tensor, dataset: str) -> Iterator[dict[str, Any]]:
    context = int(material.manifest["context"])
    prompts = material.text.height // context
    for one in material.features():
        index, row = one.feature, decoder[one.feature].float()
        size = row.abs()
        aligned = size.topk(min(ALIGNED, len(row))).indices
        steps = pairwise(one.histogram.edges)
        yield {
            "feature_index": index,
            "neuron_alignment_indices": aligned.tolist(),
            "neuron_alignment_values": _rounded(row[aligned].tolist()),
            "neuron_alignment_l1": _rounded((size[aligned] / size.sum()).tolist()),
            "correlated_neurons_indices": [],
            "correlated_neurons_l1": [],
            "correlated_neurons_pearson": [],
            "correlated_features_indices": [f for f, _, _ in one.coactive],
            "correlated_features_l1": _rounded(_cosines(decoder, index, [f for f, _, _ in one.coactive])),
            "correlated_features_pearson": _rounded([phi for _, phi, _ in one.coactive]),
            "neg_str": [t for t, _ in one.suppresses],
            "neg_values": _rounded([by for _, by in one.suppresses]),
            "pos_str": [t for t, _ in one.promotes],
            "pos_values": _rounded([by for _, by in one.promotes]),
            "frac_nonzero": one.density,
            "freq_hist_data_bar_values": _rounded([(a + b) / 2 for a, b in steps]),
            "freq_hist_data_bar_heights": list(one.histogram.counts),
            "logits_hist_data_bar_heights": [],
            "logits_hist_data_bar_values": [],
            "n_prompts_total": prompts,
            "n_tokens_in_prompt": context,
            "dataset": dataset,
            "decoder_weights_dist": [],
            "vector": _rounded(row.tolist()),
            "activations": [_activation(one, shown) for shown in one.contexts],
        }


def _activation(one: FeatureMaterial, shown: QuantileContext) -> dict[str, Any]:
    low, high, share = -1.0, one.max_activation, -1.0
    if (band := BANDS.index(shown.quantile)) > 0:
        edges = (one.max_activation, *one.histogram.fifths, 0.0)
        high, low, share = edges[band - 1], edges[band], 1 / (len(BANDS) - 1)
    return {
        "bin_min": _round(low),
        "bin_max": _round(high),
        "bin_contains": share,
        "qualifying_token_index": shown.peak,
        "tokens": list(shown.tokens),
        "values": _rounded(shown.activations),
    }


def _cosines(decoder: torch.Tensor, index: int, others: Sequence[int]) -> list[float]:
    rows = torch.nn.functional.normalize(decoder[[index, *others]].float(), dim=1)
    return (rows[1:] @ rows[0]).tolist()


def _rounded(values: Iterable[float]) -> list[float]:
    return [_round(v) for v in values]


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
