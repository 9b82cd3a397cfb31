"""`saelab train`: only the SAEs of a study: text, activations, training. Without a file, of a study made from flags."""

from pathlib import Path
from typing import Annotated, Any

from saelab.cli.output import note, say, size_said
from saelab.cli.parameters import SEVERAL
from saelab.cli.progress import shown
from saelab.cli.run import place_of
from saelab.core.errors import UserError


def train(
    study: Path | None = None,
    *,
    lm: str | None = None,
    site: Annotated[list[str] | None, SEVERAL] = None,
    text: str | None = None,
    arch: Annotated[list[str] | None, SEVERAL] = None,
    l0: Annotated[list[str] | None, SEVERAL] = None,
    d_sae: int = 4096,
    tokens: str | None = None,
    out: Path | None = None,
) -> int:
    """Train the SAEs of a study file, or of flags. `saelab run FOLDER` goes on from there.

    Parameters
    ----------
    study:
        The study file (YAML), or a run folder. Without it --lm and --site say what is trained.
    lm:
        Language model: short name or reference (hf:org/name, path:folder).
    site:
        Where the SAEs stand, such as resid_post.15.
    text:
        Text of your own: path:notes.jsonl, or another reference; by default the embedded corpus.
    arch:
        Architectures, such as topk,jumprelu; by default topk.
    l0:
        Target L0, one or several; by default 32.
    d_sae:
        Features per SAE.
    tokens:
        Tokens to train on, each about once: 500K, 2M; by default as many as take a quarter of an hour here.
    out:
        Run folder; by default runs/NAME.
    """
    from saelab.study.costs import seconds_here
    from saelab.study.fresh import TRAINED
    from saelab.study.run import run
    from saelab.study.scales import read_study

    if study is not None and (lm is not None or site is not None or text is not None):
        raise UserError("A study file says which model, site and text.", hint="Give the file, or the flags.")
    config = read_study(study) if study is not None else _made(lm, site or [], text, (arch, l0), d_sae, tokens)
    place = out or (Path("runs") / config.name if study is None else place_of(study))
    note(size_said(config, seconds_here(config, TRAINED)))
    with shown() as progress:
        folder = run(config, place, stages=TRAINED, tell=note, progress=progress)
    say(f"SAEs: {folder.saes}")
    for name in sorted(path.name for path in folder.saes.iterdir() if path.is_dir()):
        say(f"  saelab inspect {folder.saes / name}")
    say(f"Scored, steered and compared: saelab run {folder.root}")
    return 0


def _made(
    lm: str | None,
    site: list[str],
    text: str | None,
    kinds: tuple[list[str] | None, list[str] | None],
    d_sae: int,
    tokens: str | None,
) -> Any:
    """The study of the flags. kinds: architectures and levels."""
    from saelab.saes.catalogue import USUAL
    from saelab.study.fresh import Wanted, count_of, made, split

    if lm is None or not site:
        raise UserError(
            "Give a study file, or --lm and --site.", hint="saelab train --lm smollm2-135m --site resid_post.15"
        )
    arch, l0 = kinds
    count = None if tokens is None else count_of(tokens)
    return made(Wanted(lm, split(site), split(arch or USUAL[:1]), split(l0 or ["32"]), d_sae, text, count))[1]
