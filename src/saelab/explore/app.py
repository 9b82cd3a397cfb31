"""The pages and what they ask for, as one application: routes in, HTML and JSON out.

What was asked wrongly is a sentence with its status, never a traceback. Text of models, tokenizers and files is escaped
by the templates and set as text by the scripts. Must never know the command line, nor how the server is reached.
"""

import asyncio
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from saelab.core.errors import SaelabError, UserError
from saelab.explore import steer_live
from saelab.explore.browse import browse_page, rows_of
from saelab.explore.compare_page import compare_page
from saelab.explore.copies import TYPES, copy_of
from saelab.explore.feature_page import feature_page
from saelab.explore.live import BEHIND
from saelab.explore.pages import COLOURS, LINKS, STATIC, Pages, script_data
from saelab.explore.path_page import path_page
from saelab.explore.recipes import recipe
from saelab.explore.session import Session
from saelab.explore.try_text import try_text
from saelab.report.words import visible
from saelab.steering.export import save_directions
from saelab.store.layout import tensors_name


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
        Route("/api/state", _answer(session, lambda s, r: JSONResponse(s.model.state | {"making": len(s.making)}))),
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
        known = error if isinstance(error, SaelabError) else UserError("There is no such page.")
        status = 404 if isinstance(known, UserError) and request.method == "GET" else 400
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": known.message, "hint": known.hint}, 400)
        page = {"title": "saelab", "message": known.message, "hint": known.hint or ""}
        return HTMLResponse(pages.render("error.html", page), status)

    return Starlette(routes=routes, exception_handlers={SaelabError: failed, 404: failed})


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
        return await run_in_threadpool(build, session, await _data(request))

    return answer


async def _data(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError("The request is no JSON.") from error


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
    return {"title": "Try a text", "text": asked.get("text", ""), "saes": session.names, "chosen": chosen}


def _steer(session: Session, request: Request) -> Mapping[str, Any]:
    asked = request.query_params
    setup = {"features": [_marked(session, one) for one in asked.getlist("f")], "most": steer_live.MOST_FEATURES}
    prompt = asked.get("prompt", "I think that")
    return {"title": "Steer", "prompt": prompt, "saes": session.names, "setup": script_data(setup)}


def _marked(session: Session, one: str) -> dict[str, Any]:
    """A feature as an address holds it: SAE:number:share."""
    rest, _, share = one.rpartition(":")
    sae, _, number = rest.rpartition(":")
    try:
        found = {"sae": sae, "feature": int(number), "share": float(share)}
    except ValueError as error:
        raise UserError(f"{one!r} is no SAE, feature and share.", hint="Such as ?f=NAME:12:0.3.") from error
    session.explored.opened(sae)
    return found | {"said": session.described(sae, found["feature"]) or ""}


def _read(session: Session, data: Any) -> Response:
    if not isinstance(data, dict) or not isinstance(data.get("text"), str) or not isinstance(data.get("sae"), str):
        raise UserError("A text is read with an SAE.")
    sae = session.sae(data["sae"])
    with session.model.turn() as lm:
        found = try_text(lm, sae, data["text"])
    for row in found["features"]:
        row |= {"said": session.described(data["sae"], row["feature"]) or ""}
        row |= {"href": LINKS.feature(data["sae"], row["feature"])}
    numbers = {f for at in found["top"] for f, _ in at}
    said = {f: session.described(data["sae"], f) or "" for f in numbers}
    found["tokens"] = [visible(t) for t in found["tokens"]]
    return JSONResponse(found | {"said": said, "sae": data["sae"]})


def _describe(session: Session, data: Any) -> Response:
    if not isinstance(data, dict) or not isinstance(data.get("feature"), int) or not isinstance(data.get("sae"), str):
        raise UserError("A feature is an SAE and a number.")
    size = session.explored.opened(data["sae"]).d_sae
    if not 0 <= data["feature"] < size:
        raise UserError(f"There is no feature {data['feature']}: {data['sae']} has 0 to {size - 1}.")
    return JSONResponse({"said": session.described(data["sae"], data["feature"]) or ""})


def _recipe(session: Session, data: Any) -> Response:
    what = steer_live.asked(data)
    return PlainTextResponse(recipe(session, what, str(data.get("kind", ""))))


def _directions(session: Session, data: Any) -> Response:
    what = steer_live.asked(data)
    saes = {t.sae: session.sae(t.sae) for t in what.turns}
    with session.model.turn() as lm:
        found = steer_live.directions(lm, saes, what)
    named = {f"{t.sae}.feature_{t.feature}": d for t, d in zip(what.turns, found, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / tensors_name("directions")
        save_directions(path, named)
        return Response(path.read_bytes(), media_type="application/octet-stream")


def _streamed(session: Session) -> Callable[..., Any]:
    """Texts as they are written, a JSON line at a time; the writing ends when nobody reads on."""

    async def answer(request: Request) -> Response:
        what = steer_live.asked(await _data(request))
        saes = {t.sae: await run_in_threadpool(session.sae, t.sae) for t in what.turns}
        session.model.get()
        loop, stop = asyncio.get_running_loop(), threading.Event()
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def tell(line: dict[str, Any] | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lines.put_nowait, line)

        def work() -> None:
            sites = {d for d in (session.explored.opened(t.sae).site for t in what.turns) if d}
            limits = {s: dose for s in sites if (dose := session.tried_dose(s)) is not None}
            try:
                with session.model.turn() as lm:
                    steer_live.write(lm, saes, what, tell, lambda: stop.is_set() or session.ended.is_set(), limits)
            except SaelabError as error:
                tell({"type": "error", "error": str(error)})
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
