"""The page: one file that loads nothing, runs nothing of a run's, prints no missing value as a number."""

import base64
import hashlib
import re
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from report_run import build_run, sae_names

from saelab.core.errors import ArtefactError, UserError
from saelab.report import flow
from saelab.report.headline import answer, opening, picture, question, tiles
from saelab.report.material import FORMER, Material, read_material
from saelab.report.page import _printable, render, write_report
from saelab.report.sections import sections
from saelab.report.unchanged import unchanged
from saelab.store.files import read_json, write_json
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.store.tables import read_table, write_table

PAYLOAD = "<script>document.title='run'</script>\"'><img src=x onerror=alert(1)></style></script>{{7*7}}&lt;\u202e"
# Columns that name rows rather than say something; a table is not readable without them.
KEYS = {
    "sae",
    "method",
    "split",
    "reason_chosen",
    "arm",
    "mode",
    "axis",
    "statistic",
    "rubric",
    "generation",
    "x",
}


class Reader(HTMLParser):
    """What a browser would find: elements, attributes, scripts by type, and the text outside scripts and styles."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._raw: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self._raw = dict(attrs).get("type") or tag
            self.scripts.append((self._raw, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._raw = None

    def handle_data(self, data: str) -> None:
        if self._raw is None:
            self.text.append(data)
        else:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)


def running(page: Reader) -> list[str]:
    """Everything on a page that would run or load and is not the page's script."""
    own = {"script", "style"}
    bad = [f"script {k}" for k, _ in page.scripts if k not in own]
    code = [t for k, t in page.scripts if k == "script"]
    bad += [f"script {t[:40]}" for t in code if not t.startswith("// Sorts a table")]
    for tag, name, value in page.attributes:
        outside = name in ("src", "href", "action", "data", "srcset") and not value.startswith("#")
        if name.startswith("on") or outside:
            bad.append(f"{tag} {name}={value}")
    return bad


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return write_report(run).read_text("utf-8")


def poison(run: RunFolder) -> None:
    """Put the payload in front of every free text of every artefact."""
    for path in run.root.rglob("*.parquet"):
        table = read_table(path)
        free = [c for c in table.columns if c not in KEYS and c != "state"]
        strings = [c for c in free if table[c].dtype == pl.String]
        lists = [c for c in free if table[c].dtype == pl.List(pl.String)]
        table = table.with_columns(
            *(pl.concat_str(pl.lit(PAYLOAD), c).alias(c) for c in strings),
            *(pl.col(c).list.eval(pl.concat_str(pl.lit(PAYLOAD), pl.element())) for c in lists),
        )
        if "terms" in table.columns:
            table = table.with_columns(terms=pl.lit([{"text": PAYLOAD, "weight": 1.0}], table["terms"].dtype))
        if "state" in table.columns and "rubric" not in table.columns:
            table = table.with_columns(state=pl.when(pl.col("state") == "ok").then("state").otherwise(pl.lit(PAYLOAD)))
        write_table(path, table)
    for path in run.root.rglob("*.json"):
        write_json(path, _poisoned(read_json(path)))


def _poisoned(value: object) -> object:
    if isinstance(value, dict):
        return {f"{PAYLOAD}{k}" if k in ("reference", "cores") else k: _poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(v) for v in value]
    return PAYLOAD + value if isinstance(value, str) else value


def test_the_page_is_one_file_that_loads_nothing(page: str) -> None:
    """No address is reached and only the one named script may run; the page is small."""
    found = Reader(page)
    assert running(found) == []
    policy = next(v for _, n, v in found.attributes if n == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy and "unsafe-eval" not in policy
    code = [t for k, t in found.scripts if k == "script"]
    assert len(code) == 1
    for text in code:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.count("sha256-") == 1
    assert len(page.encode()) < 1_500_000


def test_every_section_is_there(page: str) -> None:
    """Ten chosen cards and five of two paths, six figures, and a contents list that leads to every section."""
    found = Reader(page)
    ids = [v for _, n, v in found.attributes if n == "id"]
    assert len(ids) == len(set(ids))
    links = [v[1:] for t, n, v in found.attributes if t == "a" and n == "href"]
    assert set(links) <= set(ids)
    assert {"run", "grid", "agreement", "absent", "selection", "matching", "training", "features"} <= set(links)
    assert len([i for i in ids if re.fullmatch(r"card-\d+", i)]) == 15
    assert len([i for i in ids if i.startswith("plot-")]) == 6
    ordered = [v[1:] for t, n, v in found.attributes if t == "a" and n == "href" and re.fullmatch("#[a-z]+", v)]
    assert ordered[-1] == "run", "what was run stands at the end"


def test_a_path_leads_to_the_cards_of_its_features(run: RunFolder, page: str) -> None:
    """Only paths whose features all have descriptions are shown, the longest first; the counts flow from end to end."""
    material = read_material(run)
    paths = flow.chosen(material)
    assert [len(p) for p in paths] == [3, 2]
    found = Reader(page)
    links = [v[1:] for t, n, v in found.attributes if t == "a" and n == "href" and v.startswith("#card-")]
    for link, (sae, feature) in zip(links[-5:], [f for p in paths for f in p], strict=True):
        card = page[page.index(f'id="{link}"') :]
        assert f"<code>{sae}</code> · feature {feature}<" in card[: card.index("</header>")]
    steps = flow.neighbours(material.pairs)
    assert [p.layers for p in steps] == [(14, 15), (15, 16)]
    for pair in steps:
        counts = pair.quality["classes"]
        assert sum(counts[k] for k in ("carried on", "changed", "merged", "died")) == pair.features
    assert flow.figure([p for p in material.pairs if p not in steps]) is None, "control: only neighbours flow"


def test_hostile_text_stays_text(tmp_path: Path, page: str) -> None:
    """Tokens, descriptions, names and reasons full of markup add no element, attribute or script to the page."""
    run = build_run(tmp_path / "run")
    poison(run)
    found = Reader(write_report(run).read_text("utf-8"))
    assert running(found) == []
    assert set(found.tags) <= set(Reader(page).tags)
    assert [k for k, _ in found.scripts].count("script") == 1
    shown = "".join(found.text)
    assert "</script>49" not in shown, "a template was evaluated"
    assert "</script>{{7*7}}" in shown, "control"
    assert shown.count("<script>document.title") > 100, "the text itself must be readable"
    assert "\u202e" not in shown and "\\u202e" in shown, "a direction override must be spelled out"


def test_the_check_can_fail(page: str) -> None:
    """Control: the same text put on the page unescaped is found."""
    assert running(Reader(page.replace("<footer>", PAYLOAD + "<footer>")))


def test_missing_is_said_and_never_a_number(tmp_path: Path) -> None:
    """Null and NaN alike become 'missing (n)' with a reason; no None, NaN or null is printed anywhere."""
    run = build_run(tmp_path / "run")
    path = run.stats.root / "saes.parquet"
    table = read_table(path)
    lost = pl.col("sae") == table["sae"][2]
    holes = [pl.when(lost).then(v).otherwise(c).alias(c) for c, v in (("fvu", float("nan")), ("l0", None))]
    write_table(path, table.with_columns(holes))
    shown = " ".join(Reader(write_report(run).read_text("utf-8")).text)
    assert not re.search(r"\b(None|NaN|nan|null|inf)\b", shown)
    assert re.search(r"missing \(8\)\s*no feature has a complete score", shown)
    assert len(re.findall(r"missing \(1\)\s*fidelity was not measured", shown)) == 2


def test_a_page_is_made_again_only_where_it_would_be_another(tmp_path: Path) -> None:
    """Controls: another table, another byte of the page, no page."""
    run = build_run(tmp_path / "run")
    assert not unchanged(run)
    whole = write_report(run).read_bytes()
    assert unchanged(run)
    run.report.write_bytes(whole.replace(b"Study", b"study", 1))
    assert not unchanged(run)
    run.report.write_bytes(whole)
    with closing(Ledger(run.ledger)) as ledger:
        assert ledger.take("key", "stats", "another") == "taken"
        ledger.finish("key", 1.0, [run.stats.table("saes").path])
    assert not unchanged(run), "another table"


def test_the_opening_names_what_was_done(run: RunFolder) -> None:
    material = read_material(run)
    assert material.saes is not None and "interpreted, steered, compared and matched" in opening(material)
    bare = replace(material, saes=material.saes.with_columns(n_steered=pl.lit(None, pl.Int64)), pairs=())
    assert "trained and interpreted" in opening(bare) and "steered" not in opening(bare)


def as_far_as(run: RunFolder, what: str) -> Material:
    """A run that has only trained, only trained and interpreted, or has adopted all its SAEs."""
    material = replace(read_material(run), agreement=None, selection=None, feature_level=None, pairs=(), paths=())
    assert material.saes is not None
    if what == "train":
        return replace(material, saes=None, candidates=None, summary={})
    bare = material.saes.with_columns(n_steered=pl.lit(None, pl.Int64), utility=pl.lit(None, pl.Float64))
    keys = ("reference", "level", "level_from", "l0", "fvu", "lm", "forced_lm", "doubted", "sentence")
    record = dict.fromkeys(keys, "") | {"state": "ok", "declared": {}}
    taken = [record | {"sae": sae} for sae in bare["sae"]] if what == "adopt" else []
    said = {"verdict": "By FVU, a is better than b."} if what == "adopt" else {}
    return replace(material, saes=bare, summary=material.summary | {"adopted": taken} | said)


@pytest.mark.parametrize(
    ("what", "asked", "answered", "drawn", "done"),
    [
        ("train", "How did these SAEs train?", "on batches of training text", "first", "17 .*: trained."),
        ("interp", "How faithful", "below that of a random dictionary for all of 17 SAEs", "first", "interpreted"),
        ("adopt", "Which of these SAEs is better", "By FVU, a is better", "first", "adopted and interpreted"),
    ],
)
def test_a_part_of_a_study_gets_a_page_about_that_part(
    run: RunFolder, what: str, asked: str, answered: str, drawn: str, done: str
) -> None:
    """Its question, its answer, its picture, and no section about what was not done."""
    material = as_far_as(run, what)
    shown = picture(material)
    assert asked in question(material) and answered in answer(material)
    assert shown is not None and shown.name == drawn and re.search(done, opening(material))
    there = {s.name: s for s in sections(material, [], drawn)}
    assert not {"agreement", "arms", "instrument", "matching"} & set(there) and there["absent"].parts
    assert len(shown.panels) == 1, "the first screen holds one; the section has all"
    assert "0 sparse" not in opening(material) and "steer" not in opening(material) + question(material)


def test_what_interpretation_left_is_shown_before_statistics(tmp_path: Path) -> None:
    """Fidelity and means, without intervals. Control: of a run without interpretations there are none."""
    run = build_run(tmp_path)
    shutil.rmtree(run.stats.root)
    for sae, *_ in sae_names():
        record = run.interp(sae).fidelity.read()
        beside = {"fvu": 0.9, "ce_recovered": 0.1, "interpretability": {"balanced_accuracy": 0.6}}
        write_json(run.interp(sae).fidelity.path, record | {"dead_share": 0.0, "random_dictionary": beside})
    material = read_material(run)
    assert material.saes is not None and material.saes.height == 17
    first = material.saes.row(0, named=True)
    features = read_table(run.interp(first["sae"]).features.path)
    assert first["interpretability"] == features["balanced_accuracy"].mean()
    said = answer(material)
    assert "for all of 17 SAEs" in said and "(random dictionaries: 0.60; intervals come with statistics)" in said
    assert "JumpReLU" in render(material, []) and "held-out text yet" not in said
    shutil.rmtree(run.interp("").root)
    assert read_material(run).saes is None


def test_a_whole_study_asks_its_question(run: RunFolder) -> None:
    """Control of the above; and where the gate failed the picture is the dose response, not the scatter."""
    material = read_material(run)
    shown = picture(material)
    assert question(material) == "Do more interpretable features steer better?"
    assert shown is not None and shown.name == "scatter"
    dose = {"lm": "m", "site": "s", "set": "classes", "dose": 0.2, "outcome": "described", "lift": 0.0, "low": -1.0}
    table = pl.DataFrame([dose | {"high": 1.0}, dose | {"dose": 0.5, "high": 1.0}])
    blind = replace(material, doses=table, summary=material.summary | {"instrument": {"state": "failed", "sites": []}})
    shown = picture(blind)
    assert shown is not None and shown.name == "first" and shown.alt.startswith("Lift against dose")
    assert any(p.content.name == "scatter" for s in sections(blind, [], "first") for p in s.parts if p.kind == "figure")


@pytest.mark.parametrize("over", [0.3, -0.01])
def test_no_percentage_of_scores_that_are_not_told_from_unsteered(run: RunFolder, over: float) -> None:
    """Control: of scores that are told apart there are gains, at the top and in the table."""
    material = read_material(run)
    assert material.selection is not None
    table = material.selection.with_columns(over=pl.when(pl.col("over").is_not_null()).then(over))
    site = {"lm": "m", "site": "s", "state": "passed", "sentence": "", "chosen": {"dose": None, "strength": None}}
    gated = material.summary | {"instrument": {"state": "passed", "sites": [site]}}
    found = replace(material, selection=table, summary=gated)
    top = [t.label for t in tiles(found) if t.label.startswith("Gain by")]
    page = render(found, [])
    rows = re.findall(r"Output score.*?</tr>", page[page.index("by arm, all SAEs") :], re.S)
    assert (len(top) == 2, bool(re.search(r"[+\u2212]\d+ %", rows[0]))) == (over > 0, over > 0)


def test_the_page_says_what_was_damaged_and_made_again(run: RunFolder, page: str) -> None:
    files = [f"saes/a/{k}.safetensors" for k in range(7)]
    record = {"remade": [{"stage": "train", "name": "x", "file": f} for f in (*files, files[0])]}
    material = replace(read_material(run), summary=run.summary.read() | record)
    said = render(material, [])
    assert f"7 files of the run had been damaged, and were made again: {', '.join(files[:5])} and 2 more." in said
    assert "had been damaged" not in page, "control"


@pytest.mark.parametrize("state", ["same", "changed", "too_few"])
def test_the_page_says_whether_the_judge_stayed_the_same(tmp_path: Path, state: str) -> None:
    """The anchors stand among the facts; a judge that changed, or cannot be checked, is a sentence by the scores."""
    run = build_run(tmp_path / "run")
    kappa = {"same": 1.0, "changed": 0.31}.get(state)
    found = {"state": state, "kappa": kappa, "kappa_expected": None, "n": 12, "missing": 28}
    run.summary.write(run.summary.read() | {"anchors": found})
    shown = " ".join(Reader(write_report(run).read_text("utf-8")).text)
    assert re.search(rf"judge's anchors.*state\s+{state}.*kappa expected\s+not recorded", shown, re.S)
    assert ("The judge changed" in shown, "is not known" in shown) == (state == "changed", state == "too_few")


@pytest.mark.parametrize("value", [None, 1.5, float("nan"), True, b"x", [1]])
def test_the_page_refuses_raw_values(value: object) -> None:
    """What nobody put into words cannot be printed; words and integers can."""
    with pytest.raises(TypeError):
        _printable(value)
    assert _printable(3) == 3 and _printable("a\nb") == "a↵b"


def test_same_artefacts_same_bytes(run: RunFolder, page: str, tmp_path: Path) -> None:
    """Written twice, and from a run built twice, the page is the same."""
    assert write_report(run, tmp_path / "again.html").read_text("utf-8") == page
    assert write_report(build_run(tmp_path / "run")).read_text("utf-8") == page


def test_sections_without_artefacts_say_so(tmp_path: Path) -> None:
    """A run that has only begun gives a page of sentences; one more table turns its sentence into a section."""
    run = RunFolder(tmp_path)
    run.summary.write({"study": "begun"})
    shown = " ".join(Reader(write_report(run).read_text("utf-8")).text)
    for what in ("saes.parquet", "agreement.parquet", "arms.parquet", "quality.json", "metrics.parquet"):
        assert what in shown
    whole = build_run(tmp_path / "whole")
    write_table(run.stats.root / "agreement.parquet", read_table(whole.stats.root / "agreement.parquet"))
    shown = " ".join(Reader(write_report(run).read_text("utf-8")).text)
    assert "agreement.parquet" not in shown and "arms.parquet" in shown


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        write_report(RunFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_broken_artefact_is_an_error(tmp_path: Path) -> None:
    """A table that is there but broken, or lacks a column, gives no page instead of a page without it."""
    run = build_run(tmp_path)
    path = run.stats.root / "agreement.parquet"
    write_table(path, read_table(path).drop("null_low", "p"))
    with pytest.raises(ArtefactError, match="lacks the columns p"):
        write_report(run)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(ArtefactError, match="not a readable"):
        write_report(run)
    assert not run.report.exists()


def test_tables_of_before_give_the_same_page(tmp_path: Path) -> None:
    """Arms were called criteria, a gain lift, a response outcome. Control: a table without either has no page."""
    run = build_run(tmp_path)
    today = read_material(run)
    for name in ("selection", "features"):
        path, former = run.stats.table(name).path, FORMER[f"stats/{name}"]
        write_table(path, read_table(path).rename({new: old for old, new in former.items()}))
    before = read_material(run)
    assert before.selection is not None and today.selection is not None and before.selection.equals(today.selection)
    assert before.feature_level is not None and today.feature_level is not None
    assert before.feature_level.equals(today.feature_level)
    write_table(run.stats.table("selection").path, before.selection.drop("arm"))
    with pytest.raises(ArtefactError, match="lacks the columns arm"):
        read_material(run)


def test_the_report_needs_no_torch() -> None:
    code = "import sys, saelab.report.page; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
