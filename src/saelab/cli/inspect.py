"""`saelab inspect`: what an SAE is, and, with its language model, whether it does what it says."""

from typing import TYPE_CHECKING, Any

import polars as pl

from saelab.cli.declared import NOTHING, DeclaredFacts
from saelab.cli.models import check_reading
from saelab.cli.output import say, show_record, show_table
from saelab.cli.progress import shown
from saelab.cli.references import text_at
from saelab.core.errors import UserError

if TYPE_CHECKING:
    from saelab.interp.proof import Proof
    from saelab.saes.base import Sae
    from saelab.saes.crosscoder import Crosscoder
    from saelab.saes.transcoder import Transcoder

WRONG = 3  # the exit code of an artefact that is not what it says
NO_LM = "Not measured: give --lm NAME to prove it on real text."


def inspect(
    reference: str,
    *,
    lm: str | None = None,
    site: str | None = None,
    text: str | None = None,
    contexts: int = 16,
    context: int = 128,
    from_format: str | None = None,
    facts: DeclaredFacts = NOTHING,
    json: bool = False,
) -> int:
    """Print what an SAE is; with a language model, measure it on real text and give a verdict.

    Exits with 3 where the SAE does not do what it says.

    Parameters
    ----------
    reference:
        A folder or file, path:..., hf:org/name@revision/folder.
    lm:
        Language model to prove it on, as for saelab run (smollm2-135m, hf:..., path:...).
    site:
        Where it reads, if its files do not say or another place is to be tried.
    text:
        Text to measure on (path: or hf: reference); by default the embedded corpus.
    contexts:
        Contexts of text.
    context:
        Tokens per context.
    from_format:
        Format of the files, where two could fit.
    json:
        Print one JSON object.
    """
    from saelab.cli.references import described
    from saelab.core.sites import parse_site
    from saelab.saes.base import Sae
    from saelab.saes.formats import format_of, load, source_of

    place = None if site is None else str(parse_site(site))
    sae = load(reference, format=from_format, **facts.given())
    source = source_of(reference, tensors=facts.tensors)
    record = {"reference": reference, "format": format_of(source, from_format).name}
    record |= _described(sae) if isinstance(sae, Sae) else described(sae)
    if not isinstance(sae, Sae):
        return _rebuilt(sae, record, lm, (text, contexts, context), json)
    if lm is None:
        show_record(record | {"proof": NO_LM}, as_json=json)
        return 0
    from saelab.interp.proof import as_record, prove
    from saelab.lm.model import LanguageModel

    place = place or sae.cfg.site
    if place is None:
        raise UserError("The SAE's files do not say which site it reads.", hint="Give it: --site resid_post.12")
    check_reading(lm, [place], sae.cfg.d_in)
    with shown() as progress, progress.task("proving", 2, "steps") as task:
        model = LanguageModel.load(lm)
        task.advance()
        packed = _packed(model, text, contexts, context)
        proof = prove(model, sae, packed, site=place)
        task.advance()
    if json:
        show_record(record | {"proof": as_record(proof)}, as_json=True)
    else:
        show_record(record, as_json=False)
        _show(proof)
    return 0 if proof.holds else WRONG


def _rebuilt(
    found: "Transcoder | Crosscoder",
    record: dict[str, Any],
    lm: str | None,
    on: tuple[str | None, int, int],
    as_json: bool,
) -> int:
    """The proof of what writes to other sites than it reads: FVU of each, with and without its codes."""
    from saelab.interp.fidelity.rebuilt import ends, rebuilt_sites, unreadable

    if lm is None:
        show_record(record | {"proof": NO_LM}, as_json=as_json)
        return 0
    if places := unreadable(found):
        said = f"Not measured: {', '.join(places)} {'is' if len(places) == 1 else 'are'} no site that is read here."
        show_record(record | {"proof": said}, as_json=as_json)
        return 0
    from saelab.lm.model import LanguageModel

    check_reading(lm, ends(found)[0], found.cfg.d_in)
    with shown() as progress, progress.task("proving", 2, "steps") as task:
        model = LanguageModel.load(lm)
        task.advance()
        proof = rebuilt_sites(model, found, _packed(model, *on))
        task.advance()
    rows = [{"site": s.site, "FVU": s.fvu, "FVU without codes": s.without_codes} for s in proof.sites]
    what = "Rebuilds every site that it writes" if proof.holds else "Its codes do not rebuild every site that it writes"
    verdict = f"{what}: L0 {proof.l0:.1f}, {proof.tokens} tokens."
    if as_json:
        about = {"l0": proof.l0, "tokens": proof.tokens, "sites": rows, "holds": proof.holds, "verdict": verdict}
        show_record(record | {"proof": about}, as_json=True)
    else:
        show_record(record, as_json=False)
        show_table(pl.DataFrame(rows), as_json=False)
        say(verdict)
    return 0 if proof.holds else WRONG


def _described(sae: "Sae") -> dict[str, Any]:
    """Architecture, sizes, conventions and provenance."""
    from saelab.saes.formats.conventions import unit_of_codes

    cfg, weights = sae.cfg, sae.weights()
    norms = weights["W_dec"].norm(dim=1)
    record: dict[str, Any] = {
        "architecture": cfg.architecture,
        "encodes as": sae.saelens_name,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "k": cfg.k,
        "site": cfg.site,
        "lm": cfg.lm,
        "b_dec subtracted": cfg.subtract_b_dec,
        "unit of codes": unit_of_codes(sae),
        "decoder norms": f"{float(norms.min()):.3g} to {float(norms.max()):.3g}",
    }
    if isinstance(declared := cfg.metadata.get("declared"), dict):
        record["declared"] = ", ".join(f"{k} {v}" for k, v in declared.items())
    if cfg.settings:
        record["settings"] = ", ".join(f"{k} {v}" for k, v in cfg.settings.items())
    if "threshold" in weights:
        theta = weights["threshold"]
        record["threshold"] = f"{float(theta.min()):.3g} to {float(theta.max()):.3g}, strict >"
    from saelab.interp.proof import claims_of

    record["claims"] = ", ".join(f"{k} {v:.4g}" for k, v in claims_of(sae).items()) or None
    plain = {k: v for k, v in cfg.metadata.items() if isinstance(v, str | int | float | bool)}
    record["provenance"] = ", ".join(f"{k} {v}" for k, v in plain.items()) or None
    return record


def _packed(lm: Any, text: str | None, contexts: int, context: int) -> Any:
    """Text of the corpus in contexts of tokens."""
    from saelab.text.corpora import CorpusConfig, iter_documents
    from saelab.text.pack import pack_for

    source = text_at(text)
    documents = iter_documents(CorpusConfig(source=source or "embedded"))
    return pack_for(lm, documents, context=context, n_contexts=contexts)


def _show(proof: "Proof") -> None:
    rows = [{"convention": r.change, "L0": r.l0, "FVU": r.fvu} for r in proof.variants]
    show_table(pl.DataFrame(rows), as_json=False, title=f"{proof.site}, {proof.tokens} tokens")
    show_record(proof.ce, as_json=False)
    say(proof.verdict)
