"""`saelab evaluate`: SAEs that exist, judged side by side: a study is made of them and run to its page."""

from pathlib import Path
from typing import Literal

from saelab.cli.output import note
from saelab.cli.references import text_at


def evaluate(
    reference: str,
    *more: str,
    lm: str | None = None,
    text: str | None = None,
    preset: Literal["tiny", "small", "paper"] = "small",
    only: str | None = None,
    against: str | None = None,
    force_lm: bool = False,
    as_read: bool = False,
    out: Path | None = None,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Judge one SAE or several on one language model, and say which is better at what.

    Parameters
    ----------
    reference:
        Folder or reference of an SAE, as for saelab inspect.
    more:
        Further SAEs.
    lm:
        Language model; by default the one that the SAEs name.
    text:
        Text to judge them on (path: or hf: reference); by default the embedded corpus.
    preset:
        How much is scored: tiny, small, or paper.
    only:
        What is scored, with commas between: fidelity, interp, suite (SAEBench's), effects (of every feature on the
        next token), steer, match (each SAE with the next). By default fidelity,interp,steer.
    against:
        Folder of SAEBench's result files, anybody's: set beside this run's suite as they were published, with the
        settings that differ.
    force_lm:
        Judge them on this language model though their files name another; the page says so.
    as_read:
        Judge them as their files say though another convention fits better; the page says so.
    out:
        Run folder; by default runs/evaluate-... beside where you stand, the same for the same SAEs and settings.
    threads:
        Threads of one cell. The same number gives the same bytes.
    json:
        Print the summary as JSON.
    """
    from saelab.cli.run import finish
    from saelab.study.costs import plan_table
    from saelab.study.evaluation import evaluation
    from saelab.study.spec import saes_of

    asked = {"preset": preset, "only": only or "", "against": against, "force_lm": force_lm, "as_read": as_read}
    study = evaluation([reference, *more], lm=lm, text=text_at(text), **asked)
    (model,) = study.models
    minutes = 60 * plan_table(study)["hours"].to_list()[-1]
    named = ", ".join(f"{s.name} ({s.d_sae} features at {s.site})" for s in saes_of(study))
    tokens = study.text.train_contexts * study.text.context
    note(f"{named}, on {model.key}: {tokens:,} tokens, about {minutes:.1f} minutes on two cores.")
    if model.template is not None:
        note(f"{model.key} has no chat template, so it is asked as a text: {model.template!r}.")
    return finish(study, out or Path("runs") / study.name, as_json=json, threads=threads)
