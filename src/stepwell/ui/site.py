"""From a request to a page or an act: who asks, what they may, and what becomes of errors. One place for all of it.

A page is a function that asks the read service, in a thread, and returns what its template shows. An act is a coroutine
that says where to go afterwards.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl
from zlib import crc32

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from stepwell.api.asking.filters import MAX_FILTER_LENGTH
from stepwell.api.face import Face
from stepwell.api.reading.read_service import ReadService
from stepwell.errors import (
    InvalidArgument,
    PromiseNotFound,
    QueueNotFound,
    ReadTooLong,
    RunNotFound,
    ScheduleNotFound,
    StepwellError,
    StoreError,
)
from stepwell.ui.access import LOGIN_SECONDS, Access, Guesses, User, name_of
from stepwell.ui.guard import MAX_BODY_BYTES
from stepwell.ui.rendering import render
from stepwell.ui.words import Redactor

T = TypeVar("T")

_log: Final = logging.getLogger("stepwell.ui")

#: The field of a form that has the token against forged ones.
FORM_TOKEN: Final = "form_token"  # noqa: S105 - the name of one
#: The header by which a page that is open asks whether it is still as it was.
LIVE: Final = "X-Stepwell-Live"
_THEMES: Final = frozenset({"light", "dark"})
_MAX_FIELDS: Final = 100
#: See `Sums`.
_LEAST_SECONDS: Final = 2.0
_TIMES_AS_LONG: Final = 20
_MAX_SUMS: Final = 200

#: Tells who sends a request, for programs that know their users: None for nobody.
Authenticate: TypeAlias = "Callable[[Request], User | Awaitable[User | None] | None]"


class Visit(msgspec.Struct, frozen=True):
    """One request: `query` and `form` are its parameters, `base` is where the application is mounted."""

    query: Mapping[str, str]
    form: Mapping[str, str]
    user: User
    base: str
    form_token: str
    theme: str
    is_live: bool

    def query_of(self, name: str) -> str:
        """Return a parameter that must be there; raises `InvalidArgument`."""
        if name not in self.query:
            raise InvalidArgument(f"the address lacks {name}=…; follow a link to this page instead of typing it")
        return self.query[name]

    @property
    def by(self) -> str:
        """How acts name whoever is here."""
        return f"{self.user.name} (web)"

    @property
    def reason(self) -> str | None:
        """Why, as it was given with an act."""
        return self.form.get("reason", "").strip() or None


class Sums:
    """Keeps what is dear to count: it is counted again after twenty times as long as it took, and two seconds at least.

    So however many pages are open, a twentieth of one CPU at most goes into it.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._known: dict[str, tuple[float, Any]] = {}
        self._counting: set[str] = set()

    def get(self, key: str, count: Callable[[], T]) -> T:
        """Return what is known under a key, or count; raises what that raises."""
        now = time.monotonic()
        with self._lock:  # whoever asks meanwhile waits for the same answer
            until, value = self._known.get(key, (0.0, None))
            if now >= until:
                value = count()
                took = time.monotonic() - now
                if len(self._known) >= _MAX_SUMS:
                    self._known.clear()
                self._known[key] = time.monotonic() + max(_LEAST_SECONDS, _TIMES_AS_LONG * took), value
            return cast("T", value)

    def soon(self, key: str, count: Callable[[], T]) -> T | None:
        """Return what is known under a key, None where nothing is yet; what is old is counted anew, in a thread."""
        with self._lock:
            until, value = self._known.get(key, (0.0, None))
            if time.monotonic() >= until and key not in self._counting:
                self._counting.add(key)
                threading.Thread(target=self._count, args=(key, count), daemon=True, name="stepwell-ui-count").start()
            return cast("T | None", value)

    def _count(self, key: str, count: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            value = count()
        except StepwellError as error:
            _log.warning("%s could not be counted: %s", key, error)
            value = self._known.get(key, (0.0, None))[1]
        now = time.monotonic()
        with self._lock:
            self._known[key] = now + max(_LEAST_SECONDS, _TIMES_AS_LONG * (now - began)), value
            self._counting.discard(key)


class Page(msgspec.Struct, frozen=True):
    """What is shown: a template, and what it shows."""

    template: str
    shown: dict[str, Any]


Ask: TypeAlias = Callable[[ReadService, Visit], "Page | Response"]
Act: TypeAlias = Callable[[Visit], Awaitable[str]]
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Site:
    """What all pages share. `title` names the file on them."""

    def __init__(
        self,
        face: Face,
        access: Access,
        redactor: Redactor,
        *,
        authenticate: Authenticate | None,
        title: str,
        may_act: bool,
    ) -> None:
        self.face: Final = face
        self.redactor: Final = redactor
        self.sums: Final = Sums()
        self.may_act: Final = may_act and face.can_act
        self._access: Final = access
        self._authenticate: Final = authenticate
        self._title: Final = title
        self._guesses: Final = Guesses()
        # Two of these on one machine share a browser's cookies, for these know no ports.
        self._cookie: Final = f"stepwell-{crc32(face.path.encode(errors='surrogateescape')):08x}"

    # --- pages and acts ----------------------------------------------------------------------------------------------

    def page(self, ask: Ask) -> Endpoint:
        """Return an endpoint that shows what a function asks."""

        async def endpoint(request: Request) -> Response:
            visit = await self._visit(request)
            if isinstance(visit, Response):
                return visit
            return await run_in_threadpool(self._shown, request, ask, visit)

        return endpoint

    def act(self, act: Act) -> Endpoint:
        """Return an endpoint that does something, then leads to a page."""

        async def endpoint(request: Request) -> Response:
            visit = await self._visit(request)
            if isinstance(visit, Response):
                return visit
            try:
                self._check_may_act(visit)
                to = await act(visit)
            except StepwellError as error:
                return self._refused(visit, error)
            return RedirectResponse(visit.base + to, 303)

        return endpoint

    def _check_may_act(self, visit: Visit) -> None:
        if not visit.user.may_act:
            raise NotAllowed("You are logged in to look only. Log in with the other token to act.")
        if not self.may_act:
            raise NotAllowed("This is served to be looked at only.")

    def _shown(self, request: Request, ask: Ask, visit: Visit) -> Response:
        began = time.monotonic()
        try:
            page = self.face.look(lambda reads: ask(reads, visit))
        except StepwellError as error:
            return self._refused(visit, error)
        if isinstance(page, Response):
            return page
        body = render(page.template, {**self._shell(visit), **page.shown})
        mark = f'"{hashlib.sha256(body.encode(errors="replace")).hexdigest()[:24]}"'
        headers = {"ETag": mark, "Server-Timing": f"page;dur={(time.monotonic() - began) * 1e3:.1f}", "Vary": LIVE}
        if request.headers.get("if-none-match") == mark:
            return Response(status_code=304, headers=headers)
        return HTMLResponse(body, headers=headers)

    def _refused(self, visit: Visit, error: StepwellError) -> Response:
        status = next((code for kinds, code in _STATUSES if isinstance(error, kinds)), 409)
        return self.message(visit, status, _TITLES.get(status, "Not done"), str(error))

    def message(self, visit: Visit, status: int, title: str, text: str) -> Response:
        """Return a page that says why there is no other one."""
        return HTMLResponse(render("message.html", {**self._shell(visit), "title": title, "text": text}), status)

    def _shell(self, visit: Visit) -> dict[str, Any]:
        return {
            "base": visit.base,
            "user": visit.user,
            "may_act": self.may_act and visit.user.may_act,
            "form_token": visit.form_token,
            "theme": visit.theme,
            "is_live": visit.is_live,
            "file": self._title,
            "can_log_out": self._authenticate is None,
            "hide": self.redactor.of,
            "done": _DONE.get(visit.query.get("done", ""), ""),
        }

    # --- who asks ----------------------------------------------------------------------------------------------------

    async def _visit(self, request: Request) -> Visit | Response:
        """Return who asks for what; or what is answered to somebody who is not known, or not believed."""
        now, cookie = time.time(), request.cookies.get(self._cookie, "")
        if self._authenticate is not None:
            answer = self._authenticate(request)
            user = await answer if isinstance(answer, Awaitable) else answer
            login = "" if user is None else f"{user.role} {user.name}"
        else:
            user, login = self._access.user_of(cookie, now), cookie
        if user is None:
            return self._unknown(request)
        for name, value in request.query_params.items():
            if len(value) > MAX_FILTER_LENGTH:  # of all that an address has, a filter may be the longest
                return PlainTextResponse(
                    f"In this address, {name[:40]}=… has {len(value):,} characters; it may have "
                    f"{MAX_FILTER_LENGTH:,}. Shorten it.\n",
                    400,
                )
        form: Mapping[str, str] = {}
        if request.method == "POST":
            form = await self.form(request)
            if not self._access.is_form_token(form.get(FORM_TOKEN, ""), login):
                return PlainTextResponse(
                    "This form is of another login. Go back, load the page again, and send it.\n", 403
                )
        theme = request.cookies.get("stepwell-theme", "")
        return Visit(
            query=dict(request.query_params),
            form=form,
            user=user,
            base=request.scope.get("root_path", ""),
            form_token=self._access.form_token(login),
            theme=theme if theme in _THEMES else "",
            is_live=LIVE.lower() in request.headers,
        )

    async def form(self, request: Request) -> dict[str, str]:
        """Return the fields of a form, the first of each name; of a body that is too long or malformed, none."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                return {}
        try:
            fields = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
            )
        except ValueError:
            return {}
        return dict(reversed(fields))

    def _unknown(self, request: Request) -> Response:
        if LIVE.lower() in request.headers or request.method == "POST":
            return PlainTextResponse("Log in first.\n", 401)
        # A browser that comes by a link on another site does not bring the cookie (SameSite=Strict). A page of ours
        # that leads to itself does; if that does not either, there is no login.
        if request.headers.get("sec-fetch-site") == "cross-site" and self._cookie_may_come(request):
            return self._stepping_stone(request, str(request.url.path), request.url.query)
        return self._login_page(request, 401)

    def _cookie_may_come(self, request: Request) -> bool:
        return self._authenticate is None and "stepped" not in request.query_params

    def _stepping_stone(self, request: Request, path: str, query: str) -> Response:
        query = f"{query}&stepped=" if query else "stepped="
        shown = {"base": request.scope.get("root_path", ""), "to": f"{path}?{query}", "theme": ""}
        return HTMLResponse(render("stepping_stone.html", shown))

    # --- logging in --------------------------------------------------------------------------------------------------

    async def log_in(self, request: Request) -> Response:
        """Take a token, from the form of the login page or from the link that `stepwell ui` prints."""
        if self._authenticate is not None:
            return PlainTextResponse("Log in where this page is part of.\n", 404)
        given = await self.form(request) if request.method == "POST" else request.query_params
        token = given.get("token", "")
        if not token:
            return self._login_page(request, 200)
        now, address = time.time(), "" if request.client is None else request.client.host
        wait = self._guesses.wait_seconds(address, now)
        if wait:
            answer = self._login_page(request, 429, f"Too many wrong tokens. Try again in {wait:.0f} s.")
            answer.headers["Retry-After"] = f"{wait:.0f}"
            return answer
        role = self._access.role_of(token)
        if role is None:
            self._guesses.failed(address, now)
            _log.warning("a wrong token was given, from %s", address)
            return self._login_page(request, 401, "That is not the token.")
        user = User(name_of(given.get("name", ""), role), role)
        base: str = request.scope.get("root_path", "")
        # Not a redirect: the browser would not send the new cookie with it, where a link on another site led here.
        answer = HTMLResponse(render("stepping_stone.html", {"base": base, "to": f"{base}/", "theme": ""}))
        answer.set_cookie(
            self._cookie,
            self._access.cookie(user, now),
            max_age=LOGIN_SECONDS,
            path=base or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    async def log_out(self, request: Request) -> Response:
        """Have the browser forget the login."""
        visit = await self._visit(request)
        if isinstance(visit, Response):
            return visit
        answer = RedirectResponse(f"{visit.base}/login", 303)
        answer.delete_cookie(self._cookie, path=visit.base or "/", httponly=True, samesite="strict")
        return answer

    def _login_page(self, request: Request, status: int, wrong: str = "") -> Response:
        if self._authenticate is not None:
            return PlainTextResponse("You are not logged in where this page is part of, or may not see it.\n", 403)
        shown = {"base": request.scope.get("root_path", ""), "file": self._title, "wrong": wrong, "theme": ""}
        return HTMLResponse(render("login.html", shown), status)


class NotAllowed(StepwellError):
    """Somebody who may only look wanted to act."""


_STATUSES: Final[tuple[tuple[tuple[type[StepwellError], ...], int], ...]] = (
    ((NotAllowed,), 403),
    ((RunNotFound, QueueNotFound, ScheduleNotFound, PromiseNotFound), 404),
    ((InvalidArgument,), 400),
    ((ReadTooLong, StoreError), 503),
)
_TITLES: Final = {
    400: "That cannot be understood",
    403: "Not allowed",
    404: "Not there",
    503: "The file cannot be read now",
}
#: What a page says after an act, by the word that its address brings: no text of an address is ever shown as ours.
_DONE: Final = {
    "cancel": "The run was asked to stop.",
    "terminate": "The run was ended.",
    "pause": "Paused.",
    "unpause": "It goes on.",
    "resume": "It is tried again.",
    "retry": "The run goes on from where it failed.",
    "rewind": "The run goes on from there.",
    "restart": "The run begins again.",
    "send": "The message was sent.",
    "answer": "The answer is recorded; a worker goes on with it.",
    "fork": "This is the new run.",
    "settle": "The step is settled; a worker goes on with that.",
    "describe": "Described.",
    "reschedule": "Its delay was changed.",
    "delete": "The run was deleted.",
    "change": "Changed.",
    "cancel_waiting": "What waited there was cancelled.",
    "trigger": "A run was started.",
    "backfill": "The ticks of that time are being done.",
    "takeover": "The worker's runs were taken over.",
}
