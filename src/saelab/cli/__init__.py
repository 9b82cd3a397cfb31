"""The command line: `saelab VERB`, one file per verb, loaded only when used.

Exit codes: 0 done; 1 an unexpected error; 2 what was asked cannot be done; 3 a corrupt artefact; 4 a failed download;
5 disk or memory; 6 a missing optional library; 7 too few usable judgements; 8 an instrument that cannot see steering;
130 interrupted (finished work is kept).
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, Parameter

from saelab.cli.output import LEVELS, complain, settled, told
from saelab.core.errors import ResourceError, SaelabError
from saelab.core.extras import absent

# verb -> (where it is, its line in `saelab --help`, its example); a verb's module is imported
# only when the verb is used.
VERBS = {
    "demo": (
        "demo:demo",
        "The whole question on a small real model; about twelve minutes on two cores.",
        "saelab demo",
    ),
    "run": (
        "run:run",
        "Run a study file, or go on with it after any interruption.",
        "saelab run study.yaml --out mine",
    ),
    "plan": (
        "plan:plan",
        "Say what a study file would do: cells, hours, disk. Nothing is run.",
        "saelab plan study.yaml",
    ),
    "evaluate": (
        "evaluate:evaluate",
        "Judge SAEs that exist, from any library: which is better at what, on one page.",
        "saelab evaluate path:demo/saes/topk.l0_64.resid_post.15 path:demo/saes/relu.l0_64.resid_post.15",
    ),
    "train": (
        "train:train",
        "Train SAEs at a site of a model, on your own text or the embedded corpus, with or without a study file.",
        "saelab train --lm smollm2-135m --site resid_post.15 --text notes.jsonl --arch topk,jumprelu --l0 32",
    ),
    "new": (
        "new:new",
        "Write a commented study file.",
        "saelab new study.yaml --lm smollm2-135m --site resid_post.15 --text notes.jsonl",
    ),
    "interp": (
        "interp:interp",
        "Score an SAE's fidelity and how interpretable its features are.",
        "saelab interp study.yaml --out mine",
    ),
    "select": (
        "select:select",
        "Every feature's effect on the model, and which features to steer with.",
        "saelab select path:demo/saes/topk.l0_32.resid_post.15 --lm smollm2-135m --top 5",
    ),
    "feature": (
        "feature:feature",
        "What single features fire on, promote and suppress, and what the model writes with them.",
        "saelab feature path:demo/saes/topk.l0_32.resid_post.15 22 93",
    ),
    "explore": (
        "explore:explore",
        "Look at features in a browser: search, try a text, steer, compare. Served on this machine alone.",
        "saelab explore demo",
    ),
    "steer": (
        "steer:steer",
        "Steered beside unsteered text, for features at several strengths.",
        'saelab steer path:demo/saes/topk.l0_32.resid_post.15 22 93 --prompt "I like" --strength 0.2 0.4',
    ),
    "instrument": (
        "instrument:instrument",
        "Whether steering can be seen at a site of a model: the gate of known classes and a random dictionary.",
        "saelab instrument --lm smollm2-135m --site resid_post.15 --out gate",
    ),
    "rate": (
        "rate:rate",
        "Rate steered texts yourself, blind, and see whether you agree with the judges. Served on this machine alone.",
        "saelab rate demo --rater anna",
    ),
    "concepts": (
        "concepts:concepts",
        "AxBench's two tasks on its files: directions detect written concepts and steer with them.",
        "saelab concepts concept10/prod_2b_l20_v1 --out axbench --site resid_post.15",
    ),
    "match": (
        "match:match",
        "Match the features of SAEs across sites, with a certificate.",
        "saelab match path:demo/saes/jumprelu.l0_32.resid_post.14 path:demo/saes/jumprelu.l0_32.resid_post.15",
    ),
    "stats": (
        "stats:stats",
        "Rank agreement of two columns of any table, by axes, with intervals.",
        "saelab stats table.csv --x interpretability --y utility --axis architecture --axis level",
    ),
    "report": ("report:report", "Write the page of a run folder.", "saelab report demo"),
    "inspect": (
        "inspect:inspect",
        "What an SAE is, and whether it does what it says.",
        "saelab inspect path:demo/saes/topk.l0_32.resid_post.15 --lm smollm2-135m",
    ),
    "convert": (
        "convert:convert",
        "Write an SAE in another format.",
        "saelab convert path:old-folder new-folder --to saelens",
    ),
    "push": (
        "push:push",
        "Write an SAE and its model card to the hub, or to a folder.",
        "saelab push path:demo/saes/topk.l0_32.resid_post.15 hf:my-name/my-saes/topk.l0_32",
    ),
    "doctor": ("doctor:doctor", "What this machine has, and what is missing.", "saelab doctor --json"),
}


def _app() -> App:
    app = App(
        name="saelab",
        help="Do more interpretable SAE features steer a language model better? One tool from training to the report."
        f"\n\nWith every verb: `--quiet`, or `--log-level` {', '.join(LEVELS)}, says how much is told beside results, "
        "and `--device` auto, cpu, cuda, cuda:1 or mps where language models run and SAEs are trained.",
        help_format="markdown",
        version="0.1.0",
        result_action="return_int_as_exit_code_else_zero",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=()),  # no flag for an empty list, which none of the verbs takes
    )
    for order, (verb, (target, line, example)) in enumerate(VERBS.items()):
        text = f"{line}\n\nExample: `{example}`"
        app.command(f"saelab.cli.{target}", name=verb, help=text, sort_key=order)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. SAELAB_DEBUG=1 or --log-level debug shows tracebacks."""
    try:
        return int(_app()(settled(sys.argv[1:] if arguments is None else arguments)))
    except (SaelabError, ImportError) as raised:
        error = raised if isinstance(raised, SaelabError) else absent(raised)
        if error is None or os.environ.get("SAELAB_DEBUG") or told("debug"):
            raise
        sys.stdout.flush()
        complain(error.message, error.hint)
        return error.exit_code
    except RuntimeError as raised:
        if type(raised).__name__ != "OutOfMemoryError" or told("debug"):  # torch's, which may not be imported
            raise
        full = ResourceError(
            f"The memory of the device is not enough: {raised}".partition(". ")[0] + ".",
            hint="Take smaller batches, --device cpu, or what else lies on the device off it.",
        )
        complain(full.message, full.hint)
        return full.exit_code
    except KeyboardInterrupt:
        print("saelab: interrupted; finished work is kept. Run the same command to go on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
