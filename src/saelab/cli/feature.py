"""`saelab feature`: what single features fire on, promote and suppress, and what the model writes with them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from saelab.cli.models import model_for
from saelab.cli.output import say, show_record
from saelab.cli.parameters import SEVERAL
from saelab.cli.progress import shown
from saelab.cli.references import run_of
from saelab.core.errors import UserError

PROMPT, DOSES = "I think that", (0.2, 0.5)
CUT = 1.05  # times the largest that is shown, above which it is said that larger ones are not
SHOWN = 10  # tokens promoted and suppressed


def feature(
    sae: str,
    index: list[int],
    *,
    lm: str | None = None,
    site: str | None = None,
    text: str | None = None,
    contexts: int = 5,
    read: int = 256,
    prompt: str = PROMPT,
    dose: Annotated[list[float] | None, SEVERAL] = None,
    steer: bool = True,
    json: bool = False,
) -> int:
    """Show what features fire on, promote and suppress, and what the model writes with them.

    Parameters
    ----------
    sae:
        Reference or folder of the SAE. Of an SAE in a run folder, frequency, description and contexts are those that
        the run has measured.
    index:
        Features.
    lm:
        Language model: short name or reference; by default the one that the SAE names.
    site:
        Where the SAE reads, if its files do not say.
    text:
        Text that the features are read from (path: or hf: reference); by default what the run has read, or the text on
        this machine that the SAE's files name, or the embedded corpus.
    contexts:
        Top contexts shown of each.
    read:
        About how many contexts of 128 tokens are read; all of a shorter text.
    prompt:
        What the model continues with each feature.
    dose:
        How far each feature is moved for that: nats of KL on neutral prefixes; by default 0.2 and 0.5.
    steer:
        Write texts too.
    json:
        Print one JSON object.
    """
    from saelab.cli.references import opened, without_site
    from saelab.explore.made import READ, kept_there
    from saelab.explore.opening import folder_alone, trained_on
    from saelab.interp.features.profile import fitting_site, known_features
    from saelab.saes.base import Sae

    if contexts < 1 or read < 1:
        raise UserError("--contexts and --read are at least 1.")
    found, place = opened(sae, site)
    if not isinstance(found, Sae):
        raise UserError(f"{sae} is no SAE, and its latents have no codes of one site.", hint="saelab steer takes it.")
    if place is None:
        raise UserError("This SAE does not say at which site it was trained.", hint=without_site(sae))
    known_features(found, index)  # before the language model is read
    model = model_for([found], lm)
    fitting_site(model, found, index)
    with shown() as progress:
        rows, source = (None, "") if text else _of_its_run(sae, model, found, index, contexts)
        text = text or trained_on(found)
        kept = folder_alone(found, lm or found.cfg.lm, text)
        if rows is None and read == READ and kept_there(kept):
            rows, source = _of_material(kept.root, index, contexts), text or "embedded"
        elif rows is None:
            sizes = {"read": read, "contexts": contexts, "progress": progress}
            rows, source = _read_here(model, found, index, text, **sizes), text or "embedded"
        record: dict[str, Any] = {"sae": sae, "lm": model.name, "site": place, "text": source, "features": rows}
        if steer:
            record |= {"prompt": prompt} | _steered(model, found, rows, prompt, dose or DOSES)
    if json:
        show_record(record, as_json=True)
    else:
        _show(record)
    return 0


def _of_its_run(
    reference: str, lm: Any, sae: Any, index: Sequence[int], contexts: int
) -> tuple[list[dict[str, Any]] | None, str]:
    """What the run of the SAE's folder has measured; None where the SAE is of no run, or not interpreted."""
    import polars as pl

    from saelab.explore.made import kept_there
    from saelab.interp.features.profile import lens_tokens

    found = run_of(reference)
    kept = found and found[0].interp(found[1])
    if not kept or not kept.contexts.path.exists():
        return None, ""
    table = kept.features.read().filter(pl.col("feature").is_in(index))
    told = dict(table.select("feature", "balanced_accuracy").iter_rows())
    if kept_there(kept.material):
        rows = _of_material(kept.material.root, index, contexts)
        return [row | {"balanced_accuracy": told[row["feature"]]} for row in rows], "of its run"
    known = {row["feature"]: row for row in table.iter_rows(named=True)}
    top = kept.contexts.read().filter(pl.col("feature").is_in(index) & (pl.col("rank") < contexts))
    rows = []
    for number, (up, down) in zip(index, lens_tokens(lm, sae, index, SHOWN), strict=True):
        mine = top.filter(pl.col("feature") == number).sort("rank").select("tokens", "activations", "peak")
        own = {name: known[number][name] for name in ("density", "max_activation", "description", "balanced_accuracy")}
        rows.append({"feature": number} | own | {"contexts": mine.to_dicts(), "promotes": up, "suppresses": down})
    return rows, "of its run"


def _of_material(folder: Path, index: Sequence[int], contexts: int) -> list[dict[str, Any]]:
    """What is kept of the features: the largest activations first, then those of the fifths below."""
    from saelab.explore.material import SaeMaterial

    rows = []
    for one in map(SaeMaterial(folder).feature, index):
        shown = [vars(context) for context in one.contexts[:contexts]]
        ends = {name: [token for token, _ in getattr(one, name)] for name in ("promotes", "suppresses")}
        own = {name: getattr(one, name) for name in ("feature", "density", "max_activation", "description")}
        rows.append(own | {"contexts": shown} | ends)
    return rows


def _read_here(
    lm: Any, sae: Any, index: Sequence[int], text: str | None, *, read: int, contexts: int, progress: Any
) -> list[dict[str, Any]]:
    from saelab.explore.made import text_for
    from saelab.interp.features.profile import profiles

    packed = text_for(lm, text, read=read, progress=progress)
    return [asdict(p) for p in profiles(lm, sae, index, packed, contexts=contexts, tokens=SHOWN, progress=progress)]


def _steered(lm: Any, sae: Any, rows: Sequence[dict[str, Any]], prompt: str, doses: Sequence[float]) -> dict[str, str]:
    """Add to each row what the model writes at each dose, in one batch; returns the text without any feature."""
    import torch

    from saelab.lm.edit import Add
    from saelab.lm.generate import Sampling
    from saelab.steering.directions.sae_feature import sae_feature
    from saelab.steering.units import raw

    directions = [raw(sae_feature(sae, row["feature"], 1.0)) for row in rows]
    far = [distance for dose in doses for distance in _distances(lm, directions, dose)]
    jobs = [(k % len(rows), distance) for k, distance in enumerate(far) if isinstance(distance, float)]
    # Strength 0 is the model as it is, to the bit.
    vectors = torch.stack([directions[0].vector, *(directions[k].vector for k, _ in jobs)])
    edit = Add(directions[0].site, vectors, torch.tensor([0.0, *(distance for _, distance in jobs)]))
    plain, *texts = lm.generate([prompt] * (1 + len(jobs)), Sampling(max_new_tokens=32), edits=[edit])
    written = iter(texts)
    for n, distance in enumerate(far):
        found = {"dose": doses[n // len(rows)], "strength": distance, "text": None, "state": "ok"}
        found |= {"text": next(written)} if isinstance(distance, float) else {"strength": None, "state": distance}
        rows[n % len(rows)].setdefault("steered", []).append(found)
    return {"unsteered": plain}


def _distances(lm: Any, directions: Sequence[Any], dose: float) -> list[float | str]:
    """How far each direction has to be moved for the dose; of one that has it at no distance, why."""
    from saelab.steering.units import by_equal_kl

    try:
        return [moved.strength(1.0) for moved in by_equal_kl(lm, directions, dose)]
    except UserError as error:
        if len(directions) == 1:
            return [str(error)]
    return [one for direction in directions for one in _distances(lm, [direction], dose)]


def _show(record: dict[str, Any]) -> None:
    say(f"{record['sae']} at {record['site']} of {record['lm']}; text: {record['text']}")
    for row in record["features"]:
        say(f"\nfeature {row['feature']}: {row['description'] or 'no term stands out'}")
        fires = f"{row['density']:.3%} of tokens, at most {row['max_activation']:.4g}"
        say(f"  fires on    {fires if row['max_activation'] else 'nothing of this text'}")
        if (told := row.get("balanced_accuracy")) is not None:
            say(f"  detection   {told:.2f} (balanced accuracy of the description; 0.5 says nothing)")
        shown = max((c["activations"][c["peak"]] for c in row["contexts"]), default=0.0)
        if row["contexts"] and row["max_activation"] > CUT * shown:
            say("              (larger ones stand where no whole window fits, near the ends of a context or of a part)")
        say(f"  promotes    {_tokens(row['promotes'])}")
        say(f"  suppresses  {_tokens(row['suppresses'])}")
        for context in row["contexts"]:
            say(f"  {context['activations'][context['peak']]:8.4g}  {_marked(context)}")
        for text in row.get("steered", ()):
            said = text["state"] if text["text"] is None else _one_line(record["prompt"] + text["text"])
            say(f"  {text['dose']:g} nats    {said}")
    if "unsteered" in record:
        say(f"\nunsteered     {_one_line(record['prompt'] + record['unsteered'])}")


def _tokens(tokens: Sequence[str]) -> str:
    return " ".join(repr(token) for token in tokens)


def _marked(context: dict[str, Any]) -> str:
    """The context on one line, its peak between marks."""
    tokens, peak = context["tokens"], context["peak"]
    before, after = "".join(tokens[:peak]), "".join(tokens[peak + 1 :])
    return _one_line(f"{before}[[{tokens[peak]}]]{after}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
