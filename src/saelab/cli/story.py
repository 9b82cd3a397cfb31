"""`saelab match --story`: the figures of SAE Match for the language models of finished runs, as a page and a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saelab.cli.output import say
from saelab.cli.progress import shown
from saelab.core.errors import UserError

if TYPE_CHECKING:
    from saelab.judges.client import Judge

EMBEDDING = "embedding"


def tell(
    runs: Sequence[Path],
    *,
    judge: str,
    corpora: Sequence[str],
    contexts: int,
    loss_contexts: int,
    pairs: int,
    out: Path,
) -> int:
    """Tell the story of every run; writes story.html and numbers.csv into a folder."""
    import polars as pl

    from saelab.matching.baselines import BASELINES
    from saelab.matching.story_figures import nearest, points
    from saelab.report.story import story_page
    from saelab.store.files import write_text
    from saelab.store.layout import RunFolder
    from saelab.study.story import following, stories

    for root in runs:  # before a judge is opened
        following(RunFolder(root))
    asked = _judge(judge, out)
    gap = 0.0
    found: dict[str, tuple[pl.DataFrame, list[dict[str, object]]]] = {}
    with shown() as progress:
        for root in runs:
            run = RunFolder(root)
            for story in stories(
                run, judge=asked, scale=judge != EMBEDDING, corpora=corpora, contexts=contexts,
                loss_contexts=loss_contexts, pairs=pairs, progress=progress,
            ):  # fmt: skip
                name = story.lm.name if story.lm.name not in found else f"{story.lm.name}, {root.name}"
                found[name] = (points(story), nearest(story))
                gap = max(gap, story.gap)
    table = pl.concat(part.select(pl.lit(lm).alias("lm"), pl.all()) for lm, (part, _) in found.items())
    looks = {b.name: (b.label, b.colour, b.dash) for b in BASELINES.values() if b.predict}
    write_text(out / "numbers.csv", table.write_csv(float_precision=5))
    write_text(out / "story.html", story_page(found, asked.name, looks=looks, gap=gap))
    say(f"Written: {out / 'story.html'}")
    return 0


def _judge(name: str, out: Path) -> "Judge":
    """Who compares descriptions. A paid judge's replies are kept beside the page, so that none is paid for twice."""
    from saelab.judges.catalogue import JudgeConfig
    from saelab.judges.embedding import READERS, EmbeddingJudge
    from saelab.store.layout import RunFolder

    if name == EMBEDDING:
        return EmbeddingJudge(READERS[EMBEDDING]())
    config = JudgeConfig.parse(name, origin="--judge")
    if not config.kind.takes:
        raise UserError(f"{name} cannot compare descriptions.", hint="Say embedding, local:LM or openai:MODEL.")
    replies = RunFolder(out).replies
    replies.parent.mkdir(parents=True, exist_ok=True)
    return config.open(replies)
