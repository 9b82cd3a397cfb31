"""`saelab train`: only the SAEs of a study: text, activations, training. Without a file, of a study made from flags."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from saelab.cli.output import note, say, size_said
from saelab.cli.parameters import SEVERAL
from saelab.cli.progress import shown
from saelab.cli.references import text_at
from saelab.cli.run import place_of
from saelab.core.errors import UserError


def train(
    study: Path | None = None,
    *,
    lm: str | None = None,
    site: Annotated[list[str] | None, SEVERAL] = None,
    to: str | None = None,
    text: str | None = None,
    arch: Annotated[list[str] | None, SEVERAL] = None,
    l0: Annotated[list[str] | None, SEVERAL] = None,
    d_sae: int | None = None,
    tokens: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    stream: bool = False,
    out: Path | None = None,
    replace: bool = False,
) -> int:
    """Train the SAEs of a study file, or of flags. `saelab run FOLDER` goes on from there.

    With --from a finished SAE is trained further, on its own language model, site and text, or on others.

    Several processes train every SAE together under torchrun, on one machine or many that see one run folder:
    torchrun --nproc-per-node 2 -m saelab train study.yaml

    Parameters
    ----------
    study:
        The study file (YAML), or a run folder. Without it --lm and --site say what is trained.
    lm:
        Language model: short name or reference (hf:org/name, path:folder).
    site:
        Where the SAEs stand, such as resid_post.15.
    to:
        What is rebuilt instead of the site itself, in the same block: --site mlp_in.15 --to mlp_out trains transcoders.
    text:
        Text of your own: path:notes.jsonl, or another reference; by default the embedded corpus.
    arch:
        Architectures, such as topk,jumprelu; by default topk, or the one of --from.
    l0:
        Target L0, one or several; by default 32, or that of --from.
    d_sae:
        Features per SAE; by default 4096.
    tokens:
        Tokens to train on, each about once: 500K, 2M; by default as many as take a quarter of an hour here.
    from_:
        A finished SAE (reference or folder) whose weights training begins with. Its optimiser's state is not kept, so
        the learning rate warms up again.
    stream:
        Train on the language model as it runs: of its activations only a sample is stored.
    out:
        Run folder; by default runs/NAME.
    replace:
        Give up what was finished there with other settings, and all that follows from it.
    """
    from saelab.study.checks import check
    from saelab.study.costs import seconds_here
    from saelab.study.fresh import FLAGS, TRAINED
    from saelab.study.run import follow, run
    from saelab.study.scales import read_study
    from saelab.training.distributed import joined

    flags = (lm, site, to, text, arch, l0, d_sae, tokens, from_, stream or None)
    if study is not None and any(given is not None for given in flags):
        raise UserError(
            "A study file says which model, site, text and SAEs.", hint="Give the file, or the flags without it."
        )
    config = (
        read_study(study)
        if study is not None
        else _made(lm, (site, to), text, (arch, l0), (d_sae, tokens), (from_, stream))
    )
    place = out or (Path("runs") / config.name if study is None else place_of(study))
    if study is None:
        check(config, TRAINED, names=FLAGS)
    with joined() as ranks:
        if ranks.index:
            follow(config, place, ranks)
            return 0
        note(size_said(config, seconds_here(config, TRAINED)))
        with shown() as progress:
            folder = run(config, place, stages=TRAINED, replace=replace, tell=note, progress=progress, ranks=ranks)
    say(f"SAEs: {folder.saes}")
    for name in sorted(path.name for path in folder.saes.iterdir() if path.is_dir()):
        say(f"  saelab inspect {folder.saes / name}")
    say(f"Scored, steered and compared: saelab run {folder.root}")
    return 0


def _made(
    lm: str | None,
    sites: tuple[list[str] | None, str | None],
    text: str | None,
    kinds: tuple[list[str] | None, list[str] | None],
    sizes: tuple[int | None, str | None],
    how: tuple[str | None, bool],
) -> Any:
    """The study of the flags. sites: read, and rebuilt; kinds: architectures, levels; sizes: features, tokens;
    how: what training begins with, whether it is from the stream.
    """
    from saelab.saes.catalogue import USUAL
    from saelab.study.fresh import Wanted, count_of, further, made, split, target_kind

    (site, to), (arch, l0), (d_sae, tokens), (start, stream) = sites, kinds, sizes, how
    count = None if tokens is None else count_of(tokens)
    asked = Wanted(lm or "", split(site or []), split(arch or []), split(l0 or []), d_sae or 0, text_at(text), count)
    asked = dataclasses.replace(asked, target=target_kind(to, asked.sites), stream=stream)
    if start is not None:
        if d_sae is not None:
            raise UserError("--from says how many features there are.", hint="Leave --d-sae out.")
        return made(further(start, asked))[1]
    if lm is None or not site:
        raise UserError(
            "Give a study file, or --lm and --site, or --from.",
            hint="saelab train --lm smollm2-135m --site resid_post.15",
        )
    usual = {"architectures": asked.architectures or USUAL[:1], "levels": asked.levels or ["32"]}
    return made(dataclasses.replace(asked, **usual, d_sae=d_sae or 4096))[1]
