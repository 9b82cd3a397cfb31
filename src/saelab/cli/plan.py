"""`saelab plan`: what a study file would do."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from saelab.cli.output import note, say, show_record, show_table
from saelab.cli.progress import shown
from saelab.core.errors import UserError

if TYPE_CHECKING:
    from saelab.study.measured import MeasuredPlan
    from saelab.study.spec import StudyConfig


def plan(
    study: Path, *, scale: str | None = None, measure: bool = False, cards: int | None = None, json: bool = False
) -> int:
    """Print cells and estimated hours per stage, disk, judge calls and their cost. Nothing is run or fetched.

    With --measure its language models are loaded, and some seconds of harvest, training, effects and steering are done
    on drawn text: their hours are then those of this machine.

    What would keep the study from running here is said too, and the exit code is then 2.

    Parameters
    ----------
    study:
        The study file (YAML).
    scale:
        One of the scales that the file defines, such as small.
    measure:
        Time ten seconds of each stage that can be, on this machine and its device.
    cards:
        Print the hours of a machine with so many GPUs instead, from assumed rates that are printed beside them.
    json:
        Print JSON.
    """
    from saelab.study.cards import card_table
    from saelab.study.checks import check, unknown_models
    from saelab.study.costs import disk_bytes, judge_calls, judged_texts, lm_bytes, plan_table, power_of, training_bytes
    from saelab.study.opening import opened_here
    from saelab.study.scales import read_study
    from saelab.study.sizes import size_of
    from saelab.study.spec import saes_of
    from saelab.study.unread import told_unread

    if cards is not None and cards < 1:
        raise UserError(f"--cards is a number of GPUs, at least 1, not {cards}.")
    if cards is not None and measure:
        raise UserError("--measure is of this machine, and --cards of another: give one of the two.")
    config, away = opened_here(read_study(study, scale))
    for sentence in told_unread(config):
        note(sentence)
    found = _measured(config) if measure else None
    table, calls = plan_table(config, None if found is None else found.hours), judge_calls(config)
    table = table if cards is None else card_table(config, cards)
    power, who = power_of(config), ", ".join(judge.name for judge in config.judges.values())
    if json:
        record = {"study": config.name, "not_planned": away, "saes": len(saes_of(config)), "stages": table.to_dicts()}
        record |= {} if found is None else {"memory_gib": found.memory_gib, "device_gib": found.device_gib}
        record |= {"training_bytes": training_bytes(config), "lm_bytes": max(lm_bytes(m) for m in config.models)}
        record |= {"disk_bytes": disk_bytes(config, cards or 1), "judge": who, "judged_texts": judged_texts(config)}
        record |= {"judge_calls": 0, "dollars": 0.0} if calls is None else {
            "judge_calls": calls.calls, "dollars": calls.dollars}  # fmt: skip
        show_record(record | {"power": None if power is None else asdict(power)}, as_json=True)
        check(config, download=False)
        return 0
    show_table(table, as_json=False, title=f"{config.name}: {len(saes_of(config))} SAEs")
    for sentence in _room(config, cards or 1):
        say(sentence)
    if power is not None:
        tau = "no tau" if power.tau is None else f"a true tau of {power.tau:.2f} or more"
        say(
            f"Power, four times in five: {power.features} random features x {power.texts} texts an SAE (standard error "
            f"of its mean percentile {power.se:.3f}) tell two SAEs apart from a difference of {power.smallest:.3f}; "
            f"with {power.saes} SAEs {tau} would be found. Variances are those of other studies; a run says its own."
        )
    if calls is None:
        say(f"Judge: {who}; no paid calls.")
    else:
        cost = "no price in the study file" if calls.dollars is None else f"{calls.dollars:,.2f} dollars"
        tokens = f"{calls.prompt_tokens / 1e6:,.1f} M prompt and {calls.completion_tokens / 1e6:,.1f} M reply tokens"
        say(f"Judge: {who}; at most {calls.calls:,} calls ({tokens}): {cost}.")
    guessed = [m.lm for m in config.models if not size_of(m.lm).known]
    guess = f" The size of {', '.join(guessed)} is guessed from the name." if guessed else ""
    say((_hours(found) if cards is None else _on_cards(config, cards)) + guess)
    if away:
        say(f"Not planned, as not on this machine yet: {', '.join(away)}. saelab run fetches them.")
    if unseen := unknown_models(config):
        say(f"Sites, positions and templates were not compared with {', '.join(unseen)}: not on this machine yet.")
    check(config, download=False)
    return 0


def _measured(study: "StudyConfig") -> "MeasuredPlan":
    from saelab.study.measured import measure

    with shown() as progress:
        return measure(study, progress=progress)


def _hours(found: "MeasuredPlan | None") -> str:
    """Whose hours the table has."""
    if found is None:
        return "Hours are estimates for two cores without bfloat16, one cell after the other."
    card = "" if found.device_gib is None else f" and {found.device_gib:.1f} GiB of the device's"
    return (
        "Hours marked measured are this machine's, one cell after the other, by a little of each stage on drawn text; "
        "the others are estimates for two cores without bfloat16. Measuring took at most "
        f"{found.memory_gib:.1f} GiB of memory{card}."
    )


def _room(study: "StudyConfig", at_once: int) -> Iterator[str]:
    """Disk and memory, and where activations come from. at_once: cells of training at one time."""
    from saelab.study.costs import disk_parts, judged_texts, lm_bytes, training_bytes
    from saelab.study.streams import why

    parts = disk_parts(study, at_once)
    said = ", ".join(f"{name} {size / 1e9:,.1f}" for name, size in parts.items())
    total = f"{sum(parts.values()) / 1e9:,.1f} GB"
    several = "one cell of training at a time" if at_once == 1 else f"{at_once} cells of training at once"
    yield f"Disk: at most about {total} ({said}), {several}. Steered texts to judge: {judged_texts(study):,}."
    yield from (why(study, model) for model in study.models)
    weights = max(lm_bytes(model) for model in study.models)
    yield (
        f"Memory beside a process's own: about {training_bytes(study) / 1e9:,.1f} GB in training, {weights / 1e9:,.1f} "
        "GB for a language model; batches aside."
    )


def _on_cards(study: "StudyConfig", cards: int) -> str:
    """What the hours of a machine with GPUs are made from."""
    from saelab.study.costs import training_bytes

    room = training_bytes(study, stored=False) / 1e9
    return (
        f"Hours are of {cards} card{'s' * (cards > 1)} of an H100's kind, by rates that are assumed and that nobody "
        "has measured: of a language model of 2.6 B parameters, falling with the parameters. card_hours: of one card; "
        "hours: of the longest cell, or of all shared among the cards; stages follow one another. What has no rate of "
        "a card is done by processors, two cores for each cell that runs at once. What a cell takes to begin is left "
        f"out. The training cell that takes most needs about {room:,.1f} GB of a card's memory, batches aside."
    )
