"""`saelab new`: a commented study file from flags; the schema of all its keys."""

from pathlib import Path
from typing import Annotated

from saelab.cli.output import say, show_record
from saelab.cli.parameters import SEVERAL
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
    tokens: str = "1M",
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
        Their architectures, of relu, gated, topk, batchtopk, jumprelu and matryoshka; by default topk and jumprelu.
    l0:
        Their target L0; by default 16 and 64.
    d_sae:
        Features per SAE.
    text:
        Text of your own: path:notes.jsonl, or another reference; by default the embedded corpus.
    tokens:
        Tokens to train on: 500K, 2M.
    schema:
        Print the JSON schema of all keys.
    """
    from saelab.saes.catalogue import USUAL
    from saelab.study.fresh import LEVELS, SITE, Wanted, count_of, split, study_text

    if schema:
        from saelab.study.spec import StudyConfig

        show_record(StudyConfig.model_json_schema(), as_json=True)
        return 0
    if study is None:
        raise UserError("Name the file to write.", hint="saelab new study.yaml, or --schema.")
    if study.exists():
        raise UserError(f"{study} is there already.", hint="Name another, or delete it.")
    import yaml

    from saelab.study.checks import accepted

    grid = split(site or [SITE]), split(arch or USUAL), split(l0 or LEVELS)
    wanted = Wanted(lm, *grid, d_sae, text, count_of(tokens), study.stem)
    written = study_text(wanted)
    accepted(yaml.safe_load(written), origin="the command line")
    study.write_text(written, encoding="utf-8")
    say(f"{study}: `saelab plan {study}` says what it takes, `saelab run {study}` runs it.")
    return 0
