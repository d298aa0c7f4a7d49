"""What is refused before any page is asked, and what each answer tells the browser to refuse.

An ASGI middleware around the whole application, so that nothing, errors included, goes past it:

- the host that was asked for must be one that is served: else a page of somebody else's, whose name was made to lead
  here (DNS rebinding), could read this one;
- what changes something must come from a page of ours: `Origin` says where a request was made, `Sec-Fetch-Site` as
  well;
- a body has a size;
- no page may run a script, or load anything, that is not a file of ours, or be shown in a frame of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Names of the machine itself.
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
#: The longest body of a request.
MAX_BODY_BYTES: Final = 1_000_000

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": with that, browsers do not say in `Origin` where a form came from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_HARMLESS: Final = frozenset({"GET", "HEAD"})


class Guard:
    """The middleware. `hosts` are the names that are served, without ports; ``*`` stands for any."""

    def __init__(self, application: ASGIApp, hosts: Sequence[str]) -> None:
        self._application: Final = application
        self._hosts: Final = frozenset(host.lower().strip("[]") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it on."""
        if scope["type"] != "http":  # there are no websockets here
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await PlainTextResponse(f"{refusal[1]}\n", refusal[0])(scope, receive, send_guarded)
            return
        await self._application(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Return with which status and words a request is refused, None where it is not."""
        host = headers.get("host", "")
        name = host_of(host)
        if name is None or not ({"*", name} & self._hosts):
            return 421, (
                f"This is not served as {host!r}. Whoever runs it says under which names it is: "
                "`stepwell ui --allow-host NAME`, or app(…, hosts=[NAME])."
            )
        if method in _HARMLESS:
            return None
        if method != "POST":
            return 405, "Only GET and POST are understood."
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc.lower() != host.lower():
            return 403, f"This was sent from {origin or 'somewhere unknown'}, not from a page of {host}."
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, f"The browser says that this was not sent from a page of {host}."
        size = headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MAX_BODY_BYTES:
            return 413, f"A request has at most {MAX_BODY_BYTES} bytes, and says how many."
        return None


def host_of(header: str) -> str | None:
    """Return the name in a ``Host`` header, in lower case, without port and brackets; None where it is none."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname


def is_loopback(host: str) -> bool:
    """Tell whether an address or name to listen at is the machine's own."""
    return host.lower().strip("[]") in LOOPBACK or host.startswith("127.")
