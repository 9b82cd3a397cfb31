"""`saelab new`: a commented study file from flags; the schema of all its keys."""

import json
from pathlib import Path
from typing import Annotated

from saelab.cli.output import say, size_said
from saelab.cli.parameters import SEVERAL
from saelab.cli.references import text_at
from saelab.core.errors import UserError


def new(
    study: Path | None = None,
    *,
    lm: str = "smollm2-135m",
    site: Annotated[list[str] | None, SEVERAL] = None,
    arch: Annotated[list[str] | None, SEVERAL] = None,
    l0: Annotated[list[str] | None, SEVERAL] = None,
    d_sae: int = 4096,
    text: str | None = None,
    tokens: str | None = None,
    schema: bool = False,
) -> int:
    """Write a commented study file, or print the schema of study files for an editor.

    Parameters
    ----------
    study:
        The file to write (YAML).
    lm:
        Language model: short name or reference (hf:org/name, path:folder).
    site:
        Where the SAEs stand; by default resid_post.15.
    arch:
        Their architectures, of relu, gated, topk, batchtopk, jumprelu, matryoshka, hierarchicaltopk and
        aligned; by default topk and jumprelu.
    l0:
        Their target L0; by default 16 and 64.
    d_sae:
        Features per SAE.
    text:
        Text of your own: path:notes.jsonl, or another reference; by default the embedded corpus.
    tokens:
        Tokens to train on: 500K, 2M; by default as many as are trained on within a quarter of an hour here.
    schema:
        Print the JSON schema of all keys.
    """
    from saelab.saes.catalogue import USUAL
    from saelab.study.costs import seconds_here
    from saelab.study.fresh import LEVELS, SITE, Wanted, count_of, made, split

    if schema:
        from saelab.study.scales import file_schema

        say(json.dumps(file_schema(), indent=2, ensure_ascii=False))
        return 0
    if study is None:
        raise UserError("Name the file to write.", hint="saelab new study.yaml, or --schema.")
    if study.exists():
        raise UserError(f"{study} is there already.", hint="Name another, or delete it.")
    grid = split(site or [SITE]), split(arch or USUAL), split(l0 or LEVELS)
    wanted = Wanted(lm, *grid, d_sae, text_at(text), None if tokens is None else count_of(tokens), study.stem)
    written, config = made(wanted)
    study.write_text(written, encoding="utf-8")
    say(size_said(config, seconds_here(config)))
    say(f"{study}: `saelab plan {study}` says what it takes, `saelab run {study}` runs it.")
    return 0
