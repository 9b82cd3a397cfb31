"""Writes docs/demo.md from a finished demo: `python tools/demo_page.py demo docs/demo.md RUNS`. No number is typed.

RUNS: the folder of `tools/demo_runs.py`, for the table of what is stable.
"""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from saelab.instrument.readers import CLASSES, HEADLINE, RANDOM
from saelab.stats.tables import DASH, TextTable
from saelab.store.files import read_json, write_text
from saelab.store.layout import RunFolder

HEAD = """# The demo: what it did and what it found

    make demo                                        # = saelab demo: src/saelab/study/demo.yaml, into ./demo
    python tools/demo_runs.py runs                   # the same in two number types, three seeds each
    python tools/demo_page.py demo docs/demo.md runs # writes this page from their summary.json

The language model is SmolLM2-135M-Instruct (30 blocks, width 576), the text the embedded corpus.
Ten SAEs of five architectures at two levels stand at resid_post.15, two JumpReLU SAEs at
resid_post.14 and resid_post.16; 2,048 features each. Interpretability is judged by `lexical`, a
named proxy and no LLM; steered texts are read by the instrument ([steering.md](steering.md)).
"""
LEARNT = """On held-out documents. FVU: fraction of variance unexplained (lower is better). CE recovered is
against *mean* ablation (1 is perfect). Beside each SAE stands a random dictionary of the same width
and L0 (unit Gaussian rows, TopK, least-squares scale).
"""
SCORES = """Interpretability is the mean balanced accuracy with which a feature's description tells held-out
windows where it fires (0.5 says nothing). Described is the mean percentile of the texts steered by
randomly drawn features under the readers of what those are about (chance 0.5); read back the same
under what the model itself reads in them. Less random is the lift of the described outcome less that
of the features of a random dictionary of the same width and L0. KL in nats per token.
"""
STABLE = """Runs that differ in number type and seeds (of training and every draw). Controls are lifts by the
`described` outcome; tau: interpretability with `described`. SAEs less random dictionary: the interval
of these SAEs, which the verdict speaks of; beside it that of SAEs like these.
"""
GATE = """The gate steers by six known classes of text, which has to show, and by the features of random
dictionaries, which must show less than half as much, each under readers of their own.
"""
ARMS = """Lift is a text's score under its own feature's reader less that under the other features' readers.
Less random dictionary: each SAE less its own, with the intervals of these SAEs (features were
drawn) and of SAEs like these (SAEs are the units). Against no selection: of the percentile, paired
over SAEs, p by sign flips after Holm.
"""
SPREAD = """F is 1 where SAEs do not differ; the smallest difference between two SAEs is the one told four times
in five.
"""
RANKS = """Ten SAEs of one model, few features and short texts each: the intervals say how little that
allows one to conclude, and the page says it too.
"""
SKIP = """JumpReLU, L0 32, folded by thresholds; every matching is optimal with the gap shown, proved over all
pairs. Read with care: these are small SAEs, trained for minutes; the skip is worse than simply
dropping the blocks between two adjacent sites, because the SAEs' own reconstruction error is larger
than what one block changes.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return TextTable(tuple(head), tuple(tuple(r) for r in rows)).render()


def num(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def span(row: dict[str, Any], name: str = "", digits: int = 2) -> str:
    """` [low, high]`, or nothing where there is no interval."""
    low, high = row.get(f"{name}low"), row.get(f"{name}high")
    return "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"


def learnt(summary: dict[str, Any]) -> str:
    """Fidelity, interpretability and steering of every SAE."""
    names = "SAE, L0, FVU, random FVU, CE recovered, dead, interpretability, described, read back, less random, KL"
    rows = []
    for s in summary["saes"]:
        measures = [num(s[k]) for k in ("fvu", "random_fvu", "ce_recovered")]
        clear = num(s["interpretability"]) + span(s, "interpretability_")
        steered = ["not steered", "", "", ""]
        if s["n_steered"] is not None:
            outcomes = ["described", "read_back", "described_less"]
            steered = [*(num(s[o]) + span(s, f"{o}_") for o in outcomes), num(s["kl_per_token"], 2)]
        rows.append([s["sae"], num(s["l0"], 1), *measures, f"{s['dead_share']:.1%}", clear, *steered])
    return table(names.split(", "), rows)


def gate(controls: Iterable[dict[str, Any]], places: Sequence[str] = ()) -> str:
    """The controls of the gate. places: columns that say where, such as "lm"."""
    rows = [
        [*(c[p] for p in places), c["name"].replace("_", " "), c["outcome"], num(c["value"]) + span(c), num(c["p"], 4),
         num(c["bound"]), {True: "yes", False: "no", None: ""}[c["holds"]], str(c["n"])]
        for c in controls
    ]  # fmt: skip
    return table([*places, "control", "outcome", "lift", "p", "bound", "holds", "features"], rows)


def arms(summary: dict[str, Any]) -> str:
    """Every arm by both outcomes."""
    head = ["outcome", "features chosen by", "lift", "less random dictionary", "of SAEs like these", "percentile",
            "against no selection", "p", "features"]  # fmt: skip
    rows = [
        [r["outcome"], r["arm"], *(num(r[k]) + span(r, f"{k}_") for k in ("lift", "less")),
         span(r, "less_like_").strip(), num(r["percentile"]) + span(r, "percentile_"),
         num(r["difference"]) + span(r, "difference_"), num(r["difference_p"]), str(r["n"])]
        for r in summary["arms"]
    ]  # fmt: skip
    return table(head, rows)


def spread(summary: dict[str, Any]) -> str:
    """What the design can tell apart."""
    rows = [
        [r["score"], num(r["repeats"], 0), num(r["f"], 2), num(r["p"]), num(r["reliability"], 2), num(r["se"]),
         num(r["smallest"])]
        for r in summary["spread"]
    ]  # fmt: skip
    head = ["score", "features per SAE", "F", "p", "reliability", "standard error", "smallest difference"]
    return table(head, rows)


def ranks(summary: dict[str, Any]) -> str:
    """tau_b over all SAEs of every pair that was compared."""
    rows = [r for r in summary["agreement"] if r["mode"] == "overall"]
    return table(
        ["scores", "tau_b", "p", "SAEs"],
        [[f"{r['x']} and {r['y']}", num(r["value"], 2) + span(r), _p(r), str(r["n"])] for r in rows],
    )


def stable(runs: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """What each of several runs of the demo says."""
    rows = []
    for name, s in runs:
        controls = {c["name"]: c for c in s["instrument"]["controls"] if c["outcome"] == HEADLINE}
        known, random = (controls[c] for c in (CLASSES, RANDOM))
        tau = next(
            r for r in s["agreement"] if (r["x"], r["y"], r["mode"]) == ("interpretability", HEADLINE, "overall")
        )
        rows.append(
            [name, s["instrument"]["state"], f"{s['instrument']['sites'][0]['chosen']['dose']:g}"]
            + [num(c["value"], 2) + span(c) for c in (known, random, s["steering_lift"])]
            + [span(s["steering_lift"], "like_").strip(), num(tau["value"], 2) + span(tau)]
            + [num(next(r["reliability"] for r in s["spread"] if r["score"] == HEADLINE), 2)]
        )
    head = "run, gate, dose, known classes, random dictionary, SAEs less random dictionary, SAEs like these, "
    head += "tau, reliability of an SAE"
    return table(head.split(", "), rows)


def counted(runs: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """In how many runs each part of the answer is the same."""
    lows, like = ([s["steering_lift"][end] for _, s in runs] for end in ("low", "like_low"))
    parts = {
        "gates that passed": sum(s["instrument"]["passed"] for _, s in runs),
        "lifts less a random dictionary above 0 by their interval": sum(low is not None and low > 0 for low in lows),
        "of SAEs like these": sum(low is not None and low > 0 for low in like),
        "verdicts by which no tau can be told": sum("steer better cannot be told" in s["verdict"] for _, s in runs),
    }
    return "; ".join(f"{name}: **{n} of {len(runs)}**" for name, n in parts.items()) + ".\n"


def verdicts(runs: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The first sentence of each run's page."""
    return "\n".join(textwrap.fill(f"- {name}: {s['verdict']}", 98, subsequent_indent="  ") for name, s in runs) + "\n"


def _p(row: dict[str, Any]) -> str:
    """p with how it was permuted: plainly, or within language models."""
    return DASH if row["p"] is None else f"{num(row['p'])} ({row['p_method']})"


def matched(summary: dict[str, Any]) -> str:
    """Cost, score and certificate of every matching."""
    rows = []
    for name, found in summary["matching"].items():
        flat = {k: v for k, v in found.items() if isinstance(v, int | float)}
        rows.append([name, *(f"{flat[k]:.3g}" if k in flat else DASH for k in ("cost", "gap", "matching_score"))])
    return table(["pair", "cost", "gap", "matching score"], rows)


def write(run: Path, page: Path, others: Path) -> None:
    """Write the page of a run, and of others what they say."""
    summary = RunFolder(run).summary.read()
    runs = [(path.parent.name, read_json(path)) for path in sorted(others.glob("*/summary.json"))]
    seconds = summary["seconds"]
    machine = ", ".join(f"{k} {v}" for k, v in summary["machine"].items())
    text = next(iter(summary["text"].values()))
    parts = [
        HEAD,
        textwrap.fill(summary["verdict"], 98, initial_indent="> ", subsequent_indent="> ") + "\n",
        "The first screen of its page: ![the demo's page](report.png)\n",
        table(["stage", "seconds"], [[k, f"{v:.0f}"] for k, v in seconds.items()]),
        f"Machine: {machine}.\nCells that run side by side count each: stages add up to more than `this_call`.\n",
        "## Can it see steering?\n",
        GATE,
        gate(summary["instrument"]["controls"]),
        "## What is stable?\n",
        STABLE,
        textwrap.fill(counted(runs), 98) + "\n",
        stable(runs),
        verdicts(runs),
        "## Which features steer?\n",
        ARMS,
        arms(summary),
        SPREAD,
        spread(summary),
        "## Did the SAEs learn something?\n",
        LEARNT,
        learnt(summary),
        SCORES,
        "## Do the rankings agree?\n",
        ranks(summary),
        RANKS,
        "## What becomes of features from site to site?\n",
        SKIP,
        matched(summary),
        "## What was left out and counted\n",
        "; ".join(f"{k}: {v}" for k, v in (text | summary["counts"]).items()) + ".\n",
    ]
    write_text(page, "\n".join(parts))


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:4]))
