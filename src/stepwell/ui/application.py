"""The ASGI application: which page stands at which address."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from stepwell.api.face import Face, Shown
from stepwell.ui.access import Access
from stepwell.ui.guard import LOOPBACK, Guard
from stepwell.ui.pages import bulk, database, moment, overview, queues, run, runs, schedules, waiting, workers
from stepwell.ui.rendering import STATIC, render
from stepwell.ui.site import Authenticate, Site
from stepwell.ui.words import Redactor


def app(
    shown: Shown,
    /,
    *,
    token: str | None = None,
    viewer_token: str | None = None,
    authenticate: Authenticate | None = None,
    hosts: Sequence[str] = LOOPBACK,
    read_only: bool = False,
    redact: Iterable[str] = (),
    title: str | None = None,
) -> Starlette:
    """Return the web UI of a file as an ASGI application, to be served by itself or mounted in another one.

    - `shown`: an `Engine`, or an `AsyncEngine` of the loop that serves this; or the path of a file, which can only be
      looked at then.
    - `token`: whoever logs in with it may act; `viewer_token`: … may look. At least 16 characters each. Without either
      one is made, which `app(…).state.token` has.
    - `authenticate`: tells who sends a request, in place of tokens: called with Starlette's `Request`, it returns a
      `stepwell.ui.User`, or None for nobody; it may be a coroutine function.
    - `hosts`: the names under which it is served, without ports; by default those of the machine itself. ``"*"``: any.
    - `read_only`: nobody may act. `redact`: the names of fields whose values are not shown, wherever they are in
      inputs, results, messages and published values. `title`: what pages call the file; by default its name.

    Raises `InvalidArgument` for a token that is too short.
    """
    access = Access(token, viewer_token)
    face = Face(shown)
    site = Site(
        face,
        access,
        Redactor(redact),
        authenticate=authenticate,
        title=title or os.path.basename(face.path),  # noqa: PTH119 - SQLite's paths are strings
        may_act=not read_only,
    )
    made = Starlette(
        routes=[*_routes(site), Mount("/static", _Static(directory=STATIC), name="static")],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={404: _not_there},
    )
    made.state.token = access.token if authenticate is None else None
    return made


_PAGES: Final = (overview, runs, run, moment, waiting, bulk, queues, schedules, workers, database)


def _routes(site: Site) -> list[Route]:
    return [
        Route("/login", site.log_in, methods=["GET", "POST"]),
        Route("/logout", site.log_out, methods=["POST"]),
        *(route for page in _PAGES for route in page.routes(site)),
    ]


async def _not_there(request: Request, _error: Exception) -> Response:
    if isinstance(request.scope.get("endpoint"), _Static):
        return PlainTextResponse("There is no such file.\n", 404)
    return HTMLResponse(render("nowhere.html", {"base": request.scope.get("root_path", "")}), 404)


#: Addresses of static files have a version in them, so what they lead to never changes.
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class _Static(StaticFiles):
    """Files that are the same for everybody, logged in or not."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = _FOR_EVER
        return answer
