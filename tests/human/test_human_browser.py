"""Trials in a real browser, from the first to the table: by keys and clicks, on wide and narrow, light and dark."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from saelab.human.answers import AnswerFile
from saelab.store.layout import RunFolder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.sweep, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
TRIALS = 6


@pytest.fixture
def address(steered_run: RunFolder, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of its own rater."""
    command = [sys.executable, "-m", "saelab", "rate", steered_run.root, "--no-browser", "--port", "0"]
    rater = ["--rater", str(request.node.callspec.params["name"]), "--trials", str(TRIALS)]
    process = subprocess.Popen(
        [*map(str, command), *rater], env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process, process.stdout:
        yield process.stdout.readline().removeprefix("Trials: ").strip()
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
        assert process.wait(20) == 0 and "finds the steered text" in said


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def kept(run: RunFolder, name: str) -> list[str]:
    return list(AnswerFile(run.human, name).read().choices.values())


@pytest.mark.parametrize(("name", "width", "scheme"), [("wide", 1280, "light"), ("narrow", 400, "dark")])
def test_from_the_first_trial_to_the_table(
    address: str, steered_run: RunFolder, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        errors, hosts = list[str](), set[str]()
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: hosts.add(urlsplit(r.url).netloc))
        page.goto(address)

        def at(n: int) -> None:
            page.wait_for_selector(f"#progress:text-is('{name} · {n} of {TRIALS}')")

        at(1)
        assert page.locator("#examples li").count() > 0 and fits(page)
        assert page.is_disabled(".undo >> nth=0")
        page.screenshot(path=tmp_path / f"rate-{width}.png")
        for n, key in enumerate(("1", "2", "0", "s"), start=2):
            page.keyboard.press(key)
            at(n)
        assert kept(steered_run, name) == ["left", "right", "neither", "skip"]
        page.keyboard.press("u")
        at(4)
        page.reload()  # as after a kill
        at(4)
        assert kept(steered_run, name) == ["left", "right", "neither"]
        page.click("#right")
        at(5)
        page.click("[data-answer=left]")
        at(6)
        assert page.locator("#done").is_hidden()
        page.click("text=Neither")
        page.wait_for_selector("#done:not([hidden])")
        page.wait_for_selector("#rows td")
        rows = page.inner_text("#rows")
        assert "chooses as described" in rows and "finds the steered text" in rows and fits(page)
        page.screenshot(path=tmp_path / f"rate-done-{width}.png")
        assert kept(steered_run, name) == ["left", "right", "neither", "right", "left", "neither"]
        assert not errors and hosts == {urlsplit(address).netloc}
        browser.close()
