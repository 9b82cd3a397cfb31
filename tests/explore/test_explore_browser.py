"""The explorer's pages in a real browser, as somebody uses them; on a world whose texts and names would run scripts.

Debian's Chromium, driven by playwright; skipped where either is not installed.
"""

import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from opened_world import NAMES, Server, World

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
HOSTILE_NAME = quote(NAMES[1], safe="")
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as p:
        started = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def visiting(browser: Any, server: Server, **settings: Any) -> Iterator[Page]:
    """A page that has entered; at its end nothing has run that should not, failed, or been asked of another host."""
    context = browser.new_context(**settings)
    page, hosts, errors = context.new_page(), set[str](), list[str]()
    page.on("request", lambda r: hosts.add(urlsplit(r.url).netloc))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(server.address)
    page.wait_for_selector("#rows .line")
    assert page.url == f"{server.base}/"
    yield page
    assert hosts == {urlsplit(server.base).netloc}
    assert page.evaluate("window.ran") is None
    assert not errors
    context.close()


def colour_of(page: Page, selector: str) -> str:
    return page.eval_on_selector(selector, "e => getComputedStyle(e).backgroundColor")


def becomes(page: Page, script: str, value: object) -> None:
    """Waits for a script's value; the pages' own policy lets playwright evaluate no condition in them."""
    for _ in range(100):
        if page.evaluate(script) == value:
            return
        page.wait_for_timeout(50)
    assert page.evaluate(script) == value


def fits(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_browse_search_and_open_a_feature(browser: Any, server: Server) -> None:
    """The smoke test of `make test`."""
    with visiting(browser, server) as page:
        assert page.inner_text("#count") == "128 features"
        page.keyboard.press("/")
        page.keyboard.type("onerror")
        page.wait_for_url("**/?q=onerror")
        page.wait_for_selector("#count:not(:text-is('128 features'))")
        page.click("#rows .line >> nth=0")
        page.wait_for_selector("h1")
        assert page.inner_text("h1").startswith("feature ") and "/sae/" in page.url
        assert page.locator(".contexts li").count() > 2 and page.locator(".histogram rect").count() > 2
        assert "onerror" in page.inner_text(".contexts >> nth=0")  # control: the hostile text is there, as text
        page.goto(f"{server.base}/text?text=the+cat+walks&sae=plain")
        page.wait_for_selector("#strip button.h9")
        clear = "rgba(0, 0, 0, 0)"
        assert colour_of(page, "#strip button.h9") != clear == colour_of(page, "#strip")


@pytest.mark.sweep
def test_table_sorts_filters_and_scrolls(browser: Any, server: Server) -> None:
    with visiting(browser, server) as page:
        page.click("#head button >> text=density")
        page.wait_for_selector("#head [aria-sort=descending]")
        page.wait_for_url("**/?sort=density")
        shares = [float(t.split()[0]) for t in page.locator("#rows .line span:nth-child(4)").all_inner_texts()]
        assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]
        page.click("summary")
        page.select_option("[name='state.is']", "dead")
        page.wait_for_selector("#count:text-is('2 features')")
        page.goto(page.url)  # the address holds it all
        page.wait_for_selector("#count:text-is('2 features')")
        page.goto(server.base)
        page.wait_for_selector("#rows .line")
        assert page.locator("#rows .line").count() < 100
        page.evaluate("document.querySelector('#table').scrollTop = 1e9")
        page.wait_for_selector("#rows .line .name:text-is('63') >> nth=0")


@pytest.mark.sweep
def test_the_table_is_found_as_it_was_left(browser: Any, server: Server) -> None:
    top = "document.querySelector('#table').scrollTop"
    with visiting(browser, server) as page:
        for back in (lambda: page.keyboard.press("Escape"), page.go_back):
            page.goto(f"{server.base}/?q=cat&sort=density&sae=plain")
            page.wait_for_selector("#rows .line")
            assert page.evaluate(top) == 0, "control: a table that is opened anew begins at its top"
            page.evaluate(f"{top} = 700")
            page.wait_for_selector("#rows .line .name >> nth=20")
            becomes(page, "JSON.parse(sessionStorage['saelab.listing']).top", 700)
            page.goto(f"{server.base}/sae/plain/3")
            back()
            page.wait_for_url("**/?q=cat&sort=density&sae=plain")
            becomes(page, top, 700)
            assert page.input_value("#query") == "cat" and page.input_value("#sae") == "plain"


@pytest.mark.sweep
def test_the_address_of_a_steering_holds_all_of_it(browser: Any, server: Server) -> None:
    with visiting(browser, server) as page:
        page.goto(f"{server.base}/steer?f=plain:3:0.2")
        for name, value in (("scales", "2 3"), ("tokens", "7"), ("temperature", "0.5"), ("seed", "9")):
            page.fill(f"#{name}", value)
        page.check("#chat")
        page.wait_for_url("**&chat=1**")
        page.goto(page.url)
        held = [page.input_value(f"#{name}") for name in ("scales", "tokens", "temperature", "seed")]
        assert held == ["2 3", "7", "0.5", "9"] and page.is_checked("#chat")
        assert page.locator("#sliders li").count() == 1 and page.inner_text("#state") == ""


@pytest.mark.sweep
def test_another_sae_clears_what_was_read_and_both_lists_tick(browser: Any, server: Server) -> None:
    with visiting(browser, server) as page:
        page.goto(f"{server.base}/text?text=the+cat&sae=plain")
        page.click("#strip button >> nth=1")
        page.check("#token input >> nth=0")
        number = page.get_attribute("#token input >> nth=0", "data-feature")
        assert page.is_checked(f"#fired [data-feature='{number}']") and "1 chosen" in page.inner_text("#chosen")
        page.select_option("#sae", NAMES[1])
        page.wait_for_url("**sae=%3Csvg**")
        assert "0.2" not in str(page.get_attribute("#steer", "href")) and page.locator("#token").is_hidden()


@pytest.mark.sweep
def test_keys_and_copying(browser: Any, server: Server) -> None:
    with visiting(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{server.base}/sae/plain/3")
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**/sae/plain/4")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**/sae/plain/3")
        for kind, held in (("Markdown", "## plain · feature 3"), ("JSON", '"feature": 3'), ("Python", "W_dec[3]")):
            page.click(f"[data-copy={kind}]")
            page.wait_for_selector(f"#told:text-is('{kind} copied')")
            assert held in page.evaluate("navigator.clipboard.readText()")
        page.keyboard.press("Escape")
        page.wait_for_url(f"{server.base}/")
        page.select_option("#order", "number")
        page.wait_for_selector("#rows .line:first-child .name:text-is('0')")
        page.focus("#rows .line >> nth=0")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_url("**/sae/plain/1")


@pytest.mark.sweep
def test_a_feature_is_tried_on_a_text_of_my_own(browser: Any, server: Server) -> None:
    with visiting(browser, server) as page:
        page.goto(f"{server.base}/sae/plain/3")
        page.fill(".own [name=text]", "the cat walks")
        page.press(".own [name=text]", "Enter")
        page.wait_for_selector("#fired li")
        assert page.inner_text("#state").startswith("Feature 3 ")
        assert page.inner_text("#fired li a >> nth=0") == "3"
        page.fill("#text", "the dog runs")
        page.press("#text", "Enter")
        page.wait_for_url("**dog**f=3")
        page.select_option("#sae", NAMES[1])
        page.wait_for_url("**sae=%3Csvg**")
        assert not page.inner_text("#state").startswith("Feature"), "another SAE's 3 is another feature"


@pytest.mark.sweep
def test_what_fires_on_my_sentence_and_what_happens_when_i_turn_three_up(browser: Any, server: Server) -> None:
    with visiting(browser, server) as page:
        page.click("nav >> text=Try a text")
        page.fill("#text", "the cat walks to the river")
        page.click("#ask button")
        page.wait_for_selector("#fired li")
        page.click("#strip button >> nth=2")
        assert page.locator("#token li").count() > 0
        for n in range(3):
            page.check(f"#fired input >> nth={n}")
        page.click("#steer")
        page.wait_for_selector("#sliders li >> nth=2")
        assert page.input_value("#prompt") == "the cat walks to the river"
        seen = list[str]()
        page.expose_function("heard", lambda text: seen.append(text))
        page.evaluate("""() => new MutationObserver(() => window.heard(
            document.querySelectorAll('#written .text')[1]?.textContent ?? '',
        )).observe(document.getElementById('written'), {childList: true, subtree: true})""")
        page.fill("#scales", "0.1 16")
        page.click("#go")
        page.wait_for_selector("#written[data-done]")
        grown = [text for text in dict.fromkeys(seen) if text]
        assert len(grown) > 5 and all(b.startswith(a) for a, b in pairwise(grown))
        assert page.locator("#written .card").count() == 3 and "model as it is" in page.inner_text(".card >> nth=0")
        assert "may break" in page.inner_text(".card >> nth=2") and "may break" not in page.inner_text(".card >> nth=1")
        with page.expect_download() as kept:
            page.click("#file")
        assert Path(kept.value.path()).stat().st_size > 3 * 32 * 4


@pytest.mark.sweep
def test_compare_opens_features_and_says_what_makes_a_matching(browser: Any, server: Server) -> None:
    with visiting(browser, server) as page:
        page.click("nav >> text=Compare")
        page.wait_for_selector(".points circle")
        assert "saelab match" in page.inner_text("#main")
        page.locator(".points a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/sae/**")


@pytest.mark.sweep
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_dark(browser: Any, server: Server, scheme: str) -> None:
    with visiting(browser, server, viewport={"width": 400, "height": 800}, color_scheme=scheme) as page:
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(253, 252, 249)", "dark": "rgb(20, 23, 27)"}[scheme]
        one = f"{HOSTILE_NAME}/0"
        asked = ("text?text=the+cat", f"steer?f={HOSTILE_NAME}:1:0.2", "compare", f"path/{one}")
        for path in ("/", f"/sae/{one}", "/sae/plain/63", *(f"/{a}" for a in asked)):
            page.goto(server.base + path)
            page.wait_for_load_state("networkidle")
            assert fits(page), path


@pytest.mark.sweep
def test_another_site_cannot_reach_it(browser: Any, server: Server) -> None:
    """A page of another origin of this machine, in a browser that has entered: it reads and changes nothing."""
    held = f"""<body><iframe src="{server.base}/"></iframe><script>
      const one = (how) => fetch("{server.base}/api/describe", {{credentials: "include", ...how}})
        .then((r) => r.text()).then(() => "reached", () => "refused");
      const body = JSON.stringify({{sae: "plain", feature: 1}});
      Promise.all([one({{}}), one({{method: "POST", body}}),
        one({{method: "POST", headers: {{"Content-Type": "application/json"}}, body}}),
        new Promise((r) => {{ const s = document.createElement("script"); s.src = "{server.base}/static/explore.js";
          s.onload = () => r("reached"); s.onerror = () => r("refused"); document.body.append(s); }}),
      ]).then((found) => {{ document.body.dataset.found = found.join(" "); }});
    </script>""".encode()

    class Attacker(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(held)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Attacker) as attacker:
        threading.Thread(target=attacker.serve_forever, daemon=True).start()
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.address)
        page.wait_for_selector("#rows .line")
        page.goto(f"http://127.0.0.1:{attacker.server_address[1]}/")
        page.wait_for_selector("body[data-found]")
        assert page.get_attribute("body", "data-found") == "refused refused refused refused"
        frame = page.frames[1]
        assert "128 features" not in frame.content()
        context.close()
        attacker.shutdown()


@pytest.mark.sweep
def test_exported_pages_open_from_disk_and_run_nothing(browser: Any, world: World, tmp_path: Path) -> None:
    from saelab.explore.export import write_pages
    from saelab.explore.session import Session

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAELAB_CACHE", str(world.cache))
        first = write_pages(Session(world.opened(), with_model=False), tmp_path / "pages", most=3)
        again = write_pages(Session(world.opened(), with_model=False), tmp_path / "again", most=3)
    files = sorted(p.relative_to(first.parent) for p in first.parent.rglob("*") if p.is_file())
    assert all((first.parent / f).read_bytes() == (again.parent / f).read_bytes() for f in files)
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page, addresses = context.new_page(), list[str]()
    page.on("request", lambda r: addresses.append(r.url))
    page.goto(first.as_uri())
    page.wait_for_selector("#rows a.line")
    assert page.inner_text("#count") == "128 features"
    page.fill("#query", "cat")
    page.wait_for_selector("#rows .line")
    page.fill("#query", "")
    page.wait_for_selector("#rows a.line >> nth=0")
    page.click("#rows a.line >> nth=0")
    page.wait_for_selector("h1")
    before = page.inner_text("h1")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 249)"
    page.keyboard.press("ArrowRight" if page.get_attribute("body", "data-after") else "ArrowLeft")
    page.wait_for_selector(f"h1:not(:text-is('{before}'))")
    assert fits(page) and page.evaluate("window.ran") is None
    assert {urlsplit(a).scheme for a in addresses} == {"file"}
    context.close()
