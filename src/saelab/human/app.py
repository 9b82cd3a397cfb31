"""The page of trials as an application: one page, and JSON for what it shows and takes.

The page is a file that never changes; all text comes as JSON and is set as text. Must never know which text is steered,
nor how the server is reached (explore's guard stands before it).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from saelab.explore.app import data_of, said_of
from saelab.explore.pages import COLOURS
from saelab.explore.pages import STATIC as SHARED
from saelab.human.session import RatingSession

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": STATIC / "rate.html",
    "/static/rate.js": STATIC / "rate.js",
    "/static/rate.css": STATIC / "rate.css",
    "/static/colours.css": COLOURS,
    "/static/explore.css": SHARED / "explore.css",
    "/static/explore.js": SHARED / "explore.js",
    "/static/icon.svg": SHARED / "icon.svg",
}


def make_app(session: RatingSession) -> Starlette:
    """The application, without the checks of who may ask (`explore.security.Guard`)."""
    files = [Route(path, lambda r, file=file: FileResponse(file)) for path, file in FILES.items()]
    asked = [
        Route("/api/trial", _answer(lambda _: session.now())),
        Route("/api/report", _answer(lambda _: session.report())),
        Route("/api/answer", _answer(session.take), methods=["POST"]),
        Route("/api/undo", _answer(lambda _: session.undo()), methods=["POST"]),
    ]
    return Starlette(routes=[*files, *asked], exception_handlers={404: _failed})


def _answer(work: Callable[[Any], dict[str, Any]]) -> Callable[..., Any]:
    async def answer(request: Request) -> Response:
        try:
            data = await data_of(request) if request.method == "POST" else None
            return JSONResponse(await run_in_threadpool(work, data))
        except Exception as error:  # whatever it is, the page says it
            return await _failed(request, error)

    return answer


async def _failed(request: Request, error: Exception) -> Response:
    del request
    known, status = said_of(error)
    status = 404 if isinstance(error, HTTPException) else status
    return JSONResponse({"error": known.message, "hint": known.hint}, status)
