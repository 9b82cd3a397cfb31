"""`saelab explore`: a window onto every feature, served on this machine alone."""

import os
import signal
import sys
import threading
from pathlib import Path

from saelab.cli.output import note, say
from saelab.cli.progress import shown
from saelab.core.errors import UserError

PATIENCE = 3.0  # seconds in which what goes on behind the pages may end by itself


def explore(
    refs: list[str],
    *,
    lm: str | None = None,
    text: str | None = None,
    use_lm: bool = True,
    host: str = "127.0.0.1",
    port: int = 8765,
    browser: bool = True,
    export: Path | None = None,
    neuronpedia: Path | None = None,
    features: int = 200,
) -> int:
    """Look at features: browse, search, try a text, steer, compare; served on this machine until Ctrl-C.

    Parameters
    ----------
    refs:
        Run folders, or references or folders of SAEs; several are opened together.
    lm:
        Language model: short name or reference; by default the one that the SAEs name. It is read behind the pages.
    text:
        Text that features of SAEs of no run are read from (path: or hf: reference); by default the embedded corpus.
    use_lm:
        Read the language model; without it a run can be looked at, and nothing be tried or steered.
    host:
        Address that is listened at. Only this machine's own is local; with any other, who has the printed address sees
        all that is open.
    port:
        Port; 0 takes one that is free.
    browser:
        Open the page in a browser.
    export:
        Write the pages to this folder as files instead, and serve nothing.
    neuronpedia:
        Write the batch files that Neuronpedia's importer takes to this folder instead, and serve nothing.
    features:
        Most features of each SAE that get a page of their own in --export.
    """
    if features < 1:
        raise UserError("--features is at least 1.")
    if neuronpedia is None and export is None:
        return _serve(refs, host=host, port=port, browser=browser, lm=lm, text=text, use_lm=use_lm)
    from saelab.explore.opened import open_explored

    if neuronpedia is not None:
        from saelab.explore.neuronpedia import write_neuronpedia

        with shown() as progress:
            files = write_neuronpedia(open_explored(refs, lm=lm, text=text, progress=progress), neuronpedia)
        say(f"Batch files: {len(files)} in {neuronpedia}")
    if export is not None:
        from saelab.explore.export import write_pages
        from saelab.explore.session import Session

        with shown() as progress:
            session = Session(open_explored(refs, lm=lm, text=text, progress=progress), with_model=use_lm)
            written = write_pages(session, export, most=features, progress=progress)
        say(f"Pages: {written}")
    return 0


def _serve(
    refs: list[str], *, host: str, port: int, browser: bool, lm: str | None, text: str | None, use_lm: bool
) -> int:
    from saelab.explore.server import Served, bound, is_local

    with bound(host, port) as socket:  # before anything is read: a port that is taken is said at once
        from saelab.explore.app import make_app
        from saelab.explore.opened import open_explored
        from saelab.explore.session import Session

        session = Session(open_explored(refs, lm=lm, text=text), with_model=use_lm)
        if not is_local(host):
            note(f"saelab: {host} is not this machine alone; whoever has the address below sees all that is open.")
        served = Served(make_app(session), socket, host, told=_announced, ending=session.end)
        try:
            session.begin()
            served.run(browser=browser)
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends already
            session.end()
            session.join(PATIENCE)
        if any(t is not threading.main_thread() for t in threading.enumerate()):
            # A thread inside torch would abort the process; what it makes goes on from what is kept.
            sys.stdout.flush()
            os._exit(0)
    return 0


def _announced(address: str) -> None:
    say(f"Explorer: {address}\nCtrl-C ends it.")
