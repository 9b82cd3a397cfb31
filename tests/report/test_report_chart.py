"""Charts: where a value lies on paper, which ticks stand beside it, and that text stays text."""

import re
from dataclasses import replace

import pytest

from saelab.report.chart import SHAPES, Axis, Drawn, Figure, Line, Mark, Panel, draw, key, thinned
from saelab.report.page import environment

PANEL = Panel(Axis(), Axis(), (Mark(0, 0, "var(--a)", title="a"), Mark(4, 1, "var(--a)", title="b")))


def places(panel: Panel) -> list[tuple[float, float]]:
    """The middles of the marks: a circle's path begins at its left end."""
    found = []
    for path in draw(panel).paths:
        if path.title:
            x, y = re.match(r"M(\S+) (\S+)a", path.d).groups()  # pyright: ignore[reportOptionalMemberAccess]
            found.append((float(x) + 5, float(y)))
    return found


def test_places_are_linear_in_values_and_in_logs_on_a_log_axis() -> None:
    """Control: on the linear axis the mean of the logs does not lie in the middle."""
    marks = tuple(Mark(x, x, "var(--a)", title="t") for x in (1, 10, 100, 50.5))
    (a, _), (b, _), (c, _), (d, _) = places(replace(PANEL, x=Axis(scale="log"), marks=marks))
    assert b - a == pytest.approx(c - b, abs=0.2) and d - b > 30
    (a, low), (b, _), (c, high), (d, middle) = places(replace(PANEL, marks=marks))
    assert d == pytest.approx((a + c) / 2, abs=0.2) and b - a < 30
    assert low > middle > high, "up is more"


@pytest.mark.parametrize(
    ("axis", "values", "labels"),
    [
        (Axis(), (0.12, 0.39), ["0.2", "0.3", "0.4"]),
        (Axis(zero=True), (2, 98), ["0", "25", "50", "75", "100"]),
        (Axis(), (-0.5, 0.5), ["−0.50", "−0.25", "0.00", "0.25", "0.50"]),
        (Axis(zero=True, percent=True), (0.0, 0.21), ["0 %", "5 %", "10 %", "15 %", "20 %"]),
        (Axis(scale="log", ticks=(16, 32, 64)), (15, 70), ["16", "32", "64"]),
        (Axis(scale="names", names=("p", "q")), (0, 1), ["p", "q"]),
        (Axis(), (0, 300_000), ["0", "100K", "200K", "300K"]),
    ],
)
def test_ticks_are_round_numbers(axis: Axis, values: tuple[float, float], labels: list[str]) -> None:
    drawn = draw(Panel(Axis(), axis, tuple(Mark(v, v, "var(--a)") for v in values)))
    assert [label.text for label in drawn.labels if label.anchor == "end"] == labels


@pytest.mark.parametrize("value", [0, 1e-12, -3.5, 7e9])
def test_one_value_is_an_axis_too(value: float) -> None:
    drawn = draw(Panel(Axis(zero=True), Axis(), (Mark(value, value, "var(--a)", title="t"),)))
    assert not re.search("nan|inf", "".join(p.d for p in drawn.paths))


def test_an_interval_lies_within_its_panel() -> None:
    """Control: without it the axis ends before its end."""
    wide = Mark(1, 1, "var(--a)", x_span=(-5, 9), y_span=(0.5, 30))
    ends = [float(n) for p in draw(replace(PANEL, marks=(wide,))).paths if p.faint for n in re.findall(r"[\d.]+", p.d)]
    assert min(ends) >= 0 and max(ends) <= 400
    inside = draw(replace(PANEL, marks=(replace(wide, x_span=None, y_span=None),)))
    assert not any(label.text == "30" for label in inside.labels)


def test_panels_beside_each_other_share_the_upright_axis() -> None:
    """Control: alone they do not."""
    other = replace(PANEL, marks=(Mark(0, 40, "var(--a)"),))
    ticks = [
        [s.text for s in draw(p, beside=[q]).labels if s.anchor == "end"] for p, q in ((PANEL, other), (other, PANEL))
    ]
    assert ticks[0] == ticks[1] != [s.text for s in draw(PANEL).labels if s.anchor == "end"]


def test_text_of_a_figure_stays_text() -> None:
    hostile = "</text><script>x</script>\u202e"
    panel = Panel(
        Axis(hostile), Axis(), (Mark(0, 0, "var(--a)", title=hostile),), (Line(((0, 0), (1, 1)), "c"),), hostile
    )
    figure = Figure("f", (draw(panel),), (("", (key(hostile, "var(--a)", shape="circle"),)),), hostile, hostile)
    page = (
        environment()
        .from_string('{% from "blocks.html" import plot with context %}{{ plot(figure) }}')
        .render(figure=figure)
    )
    assert "<script" not in page and page.count("&lt;script&gt;") == 6 and "\u202e" not in page


def test_a_mark_that_leads_somewhere_is_a_link() -> None:
    marks = (Mark(0, 0, "var(--a)", link="card-3"), Mark(1, 1, "var(--a)"))
    assert [p.link for p in draw(replace(PANEL, marks=marks)).paths if p.fill == "var(--a)"] == ["card-3", ""]
    assert all(isinstance(k, Drawn) for shape in SHAPES for k in key("x", "var(--a)", shape=shape).paths)


def test_marks_that_say_nothing_of_their_own_are_one_path() -> None:
    """The same picture: every place is there. Control: marks with a title stay apart."""
    bare = tuple(Mark(x, x, "var(--a)") for x in range(50))
    told = tuple(replace(mark, title="t") for mark in bare)
    one, many = ([p for p in draw(replace(PANEL, marks=m)).paths if p.fill == "var(--a)"] for m in (bare, told))
    assert len(one) == 1 and len(many) == 50 and one[0].d == "".join(p.d for p in many)


@pytest.mark.parametrize("n", [0, 1, 5, 200, 201, 12_345])
def test_thinning_keeps_the_ends(n: int) -> None:
    rows = thinned(list(range(n)), 200)
    assert rows == sorted(set(rows)) and len(rows) <= 201 and (n <= 200) == (len(rows) == n)
    assert not n or (rows[0], rows[-1]) == (0, n - 1)
