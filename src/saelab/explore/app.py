"""The pages and what they ask for, as one application: routes in, HTML and JSON out.

What was asked wrongly is a sentence with its status, never a traceback. Text of models, tokenizers and files is escaped
by the templates and set as text by the scripts. Must never know the command line, nor how the server is reached.
"""

import asyncio
import json
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saelab.core.errors import ResourceError, SaelabError, UserError
from saelab.explore import steer_live
from saelab.explore.browse import browse_page, rows_of
from saelab.explore.compare_page import compare_page
from saelab.explore.copies import TYPES, copy_of
from saelab.explore.feature_page import feature_page
from saelab.explore.live import BEHIND, Stopped
from saelab.explore.pages import COLOURS, LINKS, STATIC, Pages, script_data
from saelab.explore.path_page import path_page
from saelab.explore.recipes import recipe
from saelab.explore.session import Session
from saelab.explore.try_text import try_text
from saelab.report.words import visible
from saelab.steering.export import save_directions
from saelab.store.folders import tensors_name


def make_app(session: Session) -> Starlette:
    """The application, without the checks of who may ask (`security.Guard`)."""
    routes: list[BaseRoute] = [
        Route("/", _page(session, "browse.html", lambda s, r: browse_page(s, LINKS), "")),
        Route("/sae/{sae:path}/{feature:int}", _page(session, "feature.html", _feature)),
        Route("/sae/{sae:path}/{feature:int}.{kind:str}", _answer(session, _copy)),
        Route("/path/{sae:path}/{feature:int}", _page(session, "path.html", _path)),
        Route("/text", _page(session, "text.html", _text, "text")),
        Route("/steer", _page(session, "steer.html", _steer, "steer")),
        Route(
            "/compare", _page(session, "compare.html", lambda s, r: compare_page(s, r.query_params, LINKS), "compare")
        ),
        Route("/api/features", _answer(session, lambda s, r: JSONResponse(rows_of(s, r.query_params, LINKS)))),
        Route("/api/state", _answer(session, lambda s, r: JSONResponse(s.model.state | {"making": len(s.under_way)}))),
        Route("/api/text", _asked(session, _read), methods=["POST"]),
        Route("/api/describe", _asked(session, _describe), methods=["POST"]),
        Route("/api/recipe", _asked(session, _recipe), methods=["POST"]),
        Route("/api/directions", _asked(session, _directions), methods=["POST"]),
        Route("/api/steer", _streamed(session), methods=["POST"]),
        Route("/static/colours.css", lambda r: FileResponse(COLOURS)),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    pages = Pages(session.model)

    async def failed(request: Request, error: Exception) -> Response:
        known, status = said_of(error)
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": known.message, "hint": known.hint}, status)
        status = 404 if status == 400 and isinstance(known, UserError) and request.method == "GET" else status
        page = {"title": "saelab", "message": known.message, "hint": known.hint or ""}
        return HTMLResponse(pages.render("error.html", page), status)

    handlers: Mapping[Any, Any] = {SaelabError: failed, 404: failed}
    return Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(_Whatever, failed=failed)])


def said_of(error: Exception) -> tuple[SaelabError, int]:
    """An error as a sentence, with its status: what nobody foresaw too."""
    if isinstance(error, SaelabError):
        return error, 400
    if isinstance(error, HTTPException):
        return UserError("There is no such page."), 400
    if isinstance(error, Stopped):
        return UserError("The explorer ends."), 503
    logging.getLogger(__name__).debug("an answer failed", exc_info=error)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return ResourceError("There is not enough memory for this.", hint="Ask for fewer rows or a shorter text."), 500
    return SaelabError(f"This failed in saelab itself ({type(error).__name__}).", hint="Please report it."), 500


class _Whatever:
    """Answers an error that nobody foresaw with a page, where an answer has not begun."""

    def __init__(self, app: ASGIApp, failed: Callable[[Request, Exception], Any]):
        self.app, self.failed = app, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception as error:
            if begun:
                raise
            answer = await self.failed(Request(scope, receive), error)
            await answer(scope, receive, send)


def _page(
    session: Session, template: str, build: Callable[[Session, Request], Mapping[str, Any]], here: str = "-"
) -> Callable[..., Any]:
    pages = Pages(session.model)

    async def answer(request: Request) -> Response:
        made = await run_in_threadpool(lambda: pages.render(template, build(session, request), here=here))
        return HTMLResponse(made)

    return answer


def _answer(session: Session, build: Callable[[Session, Request], Response]) -> Callable[..., Any]:
    async def answer(request: Request) -> Response:
        return await run_in_threadpool(build, session, request)

    return answer


def _asked(session: Session, build: Callable[[Session, Any], Response]) -> Callable[..., Any]:
    async def answer(request: Request) -> Response:
        return await run_in_threadpool(build, session, await data_of(request))

    return answer


async def data_of(request: Request) -> Any:
    """The JSON of a request. Raises `UserError` where it is none."""
    try:
        data = await request.json()
        json.dumps(data, ensure_ascii=False).encode()  # half a character is none that a tokenizer or a page takes
    except (ValueError, RecursionError) as error:
        raise UserError("The request is no JSON of whole characters.") from error
    return data


def _at(session: Session, request: Request) -> tuple[str, int]:
    """The SAE and the feature of an address. A name holds what it holds, slashes too."""
    sae = request.path_params["sae"]
    return (sae if sae in session.names else unquote(sae)), request.path_params["feature"]


def _feature(session: Session, request: Request) -> Mapping[str, Any]:
    return feature_page(session, *_at(session, request), LINKS)


def _path(session: Session, request: Request) -> Mapping[str, Any]:
    return path_page(session, *_at(session, request), LINKS)


def _copy(session: Session, request: Request) -> Response:
    sae, feature = _at(session, request)
    kind, material = request.path_params["kind"], session.material(sae)
    if kind not in TYPES:
        raise UserError(f"A feature is not copied as {kind}.", hint=f"There are {', '.join(TYPES)}.")
    if material is None:
        raise UserError("There is nothing to copy yet.", hint=session.making.get(sae))
    return PlainTextResponse(copy_of(session.explored, sae, material.feature(feature), kind), media_type=TYPES[kind])


def _text(session: Session, request: Request) -> Mapping[str, Any]:
    asked = request.query_params
    chosen = asked.get("sae", session.names[0])
    about = asked.get("f", "")
    shown: dict[str, Any] = {"title": "Try a text", "text": asked.get("text", ""), "saes": session.names}
    return shown | {"chosen": chosen, "about": about if about.isdecimal() else ""}


def _steer(session: Session, request: Request) -> Mapping[str, Any]:
    asked = request.query_params
    marked = [_marked(session, one) for one in asked.getlist("f")[: steer_live.MOST_FEATURES]]
    setup = {"features": marked, "most": steer_live.MOST_FEATURES}
    prompt = asked.get("prompt", "I think that")
    return {"title": "Steer", "prompt": prompt, "saes": session.names, "setup": script_data(setup)}


def _marked(session: Session, one: str) -> dict[str, Any]:
    """A feature as an address holds it: SAE:number:share."""
    rest, _, share = one.rpartition(":")
    sae, _, number = rest.rpartition(":")
    try:
        found = {"sae": sae, "feature": int(number), "share": float(share)}
        if not abs(found["share"]) <= steer_live.MOST_SHARE:
            raise ValueError
    except ValueError as error:
        raise UserError(f"{one[:80]!r} is no SAE, feature and share.", hint="Such as ?f=NAME:12:0.3.") from error
    session.explored.check(sae, found["feature"])
    return found | {"said": session.described(sae, found["feature"]) or ""}


def _read(session: Session, data: Any) -> Response:
    if not isinstance(data, dict) or not isinstance(data.get("text"), str) or not isinstance(data.get("sae"), str):
        raise UserError("A text is read with an SAE.")
    sae, about = session.sae(data["sae"]), data.get("about")
    if about is not None:
        if type(about) is not int:
            raise UserError("A feature is a number.")
        session.explored.check(data["sae"], about)
    with session.turn("reading a text") as lm:
        found = try_text(lm, sae, data["text"], about=about)
    for row in found["features"]:
        row |= {"said": session.described(data["sae"], row["feature"]) or ""}
        row |= {"href": LINKS.feature(data["sae"], row["feature"])}
    numbers = {f for at in found["top"] for f, _ in at}
    said = {f: session.described(data["sae"], f) or "" for f in numbers}
    found["tokens"] = [visible(t) for t in found["tokens"]]
    return JSONResponse(found | {"said": said, "sae": data["sae"]})


def _describe(session: Session, data: Any) -> Response:
    if not isinstance(data, dict) or type(data.get("feature")) is not int or not isinstance(data.get("sae"), str):
        raise UserError("A feature is an SAE and a number.")
    session.explored.check(data["sae"], data["feature"])
    return JSONResponse({"said": session.described(data["sae"], data["feature"]) or ""})


def _recipe(session: Session, data: Any) -> Response:
    what = steer_live.asked(data)
    return PlainTextResponse(recipe(session, what, str(data.get("kind", ""))))


def _directions(session: Session, data: Any) -> Response:
    what = steer_live.asked(data)
    saes = {t.sae: session.sae(t.sae) for t in what.turns}
    with session.turn("saving directions") as lm:
        found = steer_live.directions(lm, saes, what)
    named = {f"{t.sae}.feature_{t.feature}": d for t, d in zip(what.turns, found, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / tensors_name("directions")
        save_directions(path, named)
        return Response(path.read_bytes(), media_type="application/octet-stream")


def _streamed(session: Session) -> Callable[..., Any]:
    """Texts as they are written, a JSON line at a time; the writing ends when nobody reads on."""

    async def answer(request: Request) -> Response:
        what = steer_live.asked(await data_of(request))
        saes = {t.sae: await run_in_threadpool(session.sae, t.sae) for t in what.turns}
        session.model.get()
        loop, stop = asyncio.get_running_loop(), threading.Event()
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def tell(line: dict[str, Any] | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(lines.put_nowait, line)

        def work() -> None:
            ended, who = lambda: stop.is_set() or session.ended.is_set(), f"writing {len(what.scales)} texts"
            try:
                sites = {d for d in (session.explored.opened(t.sae).site for t in what.turns) if d}
                limits = {s: dose for s in sites if (dose := session.tried_dose(s)) is not None}
                with session.turn(who, ended) as lm:
                    steer_live.write(lm, saes, what, tell, ended, limits)
            except Stopped:
                return
            except Exception as error:  # whatever it is, the page says it
                tell({"type": "error", "error": str(said_of(error)[0])})
            finally:
                tell(None)

        async def stream() -> AsyncIterator[str]:
            threading.Thread(target=work, name=f"{BEHIND}steering", daemon=True).start()
            try:
                while (line := await lines.get()) is not None:
                    yield json.dumps(line) + "\n"
            finally:
                stop.set()

        return StreamingResponse(stream(), media_type="application/x-ndjson")

    return answer
