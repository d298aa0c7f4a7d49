"""Who may do what: tokens, the cookie that stands for a login, the token against forged forms, and slow guessing.

Nothing is kept on the server but failed attempts: a cookie carries who is logged in until when, signed with a key that
is made of the tokens, so that several processes with the same tokens know each other's logins. Pure, but for chance:
the time comes in as an argument, in seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, Literal, TypeAlias

import msgspec

from stepwell.errors import InvalidArgument

#: A ``viewer`` can only look.
Role: TypeAlias = Literal["operator", "viewer"]

#: Shorter tokens could be guessed.
MIN_TOKEN_CHARS: Final = 16
#: How long a login lasts, in seconds: a working day.
LOGIN_SECONDS: Final = 12 * 3_600
_MAX_NAME_CHARS: Final = 60
_MAX_COOKIE_CHARS: Final = 2_000

#: So many wrong tokens within the time, from one address and from all together, and no other one is looked at.
_WINDOW_SECONDS: Final = 60.0
_MOST_FROM_ONE: Final = 5
_MOST_FROM_ALL: Final = 50


class User(msgspec.Struct, frozen=True):
    """Who is in front of the page: `name` is recorded with what they do."""

    name: str
    role: Role = "operator"

    @property
    def may_act(self) -> bool:
        """Whether they may do more than look."""
        return self.role == "operator"


class _Ticket(msgspec.Struct, frozen=True):
    """What the cookie says; `salt` makes each login another one."""

    name: str
    role: Role
    until: float
    salt: str


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Ticket).decode


class Access:
    """Tells who somebody is by what they bring: a token once, a cookie from then on."""

    def __init__(self, token: str | None, viewer_token: str | None) -> None:
        for name, given in (("token", token), ("viewer_token", viewer_token)):
            if given is not None and len(given) < MIN_TOKEN_CHARS:
                raise InvalidArgument(f"{name} needs at least {MIN_TOKEN_CHARS} characters, so that nobody guesses it")
        if token is not None and token == viewer_token:
            raise InvalidArgument("token and viewer_token are the same, so nobody could tell who may act")
        self.token: Final = secrets.token_urlsafe(24) if token is None and viewer_token is None else token
        self._viewer_token: Final = viewer_token
        self._key: Final = hashlib.sha256(f"stepwell ui\0{self.token}\0{viewer_token}".encode()).digest()

    def role_of(self, token: str) -> Role | None:
        """Return what whoever has this token may do, None for a wrong one; takes as long for each wrong one."""
        given = token.encode(errors="surrogatepass")
        is_operator = hmac.compare_digest(given, (self.token or secrets.token_hex()).encode())
        is_viewer = hmac.compare_digest(given, (self._viewer_token or secrets.token_hex()).encode())
        return "operator" if is_operator else "viewer" if is_viewer else None

    def cookie(self, user: User, now: float) -> str:
        """Return what a browser shall keep for a login."""
        ticket = _encode(_Ticket(user.name, user.role, now + LOGIN_SECONDS, secrets.token_hex(8)))
        body = urlsafe_b64encode(ticket).decode()
        return f"{body}.{self._sign('login', body)}"

    def user_of(self, cookie: str, now: float) -> User | None:
        """Return who is logged in by a cookie, None where it is forged, or too old."""
        body, dot, signature = cookie.partition(".")
        if len(cookie) > _MAX_COOKIE_CHARS or not dot or not cookie.isascii():
            return None
        if not hmac.compare_digest(signature, self._sign("login", body)):
            return None
        ticket = _decode(urlsafe_b64decode(body))
        return User(ticket.name, ticket.role) if now < ticket.until else None

    def form_token(self, login: str) -> str:
        """Return what each form must bring that a page of this login (its cookie, or a user's name) has."""
        return self._sign("form", login)

    def is_form_token(self, token: str, login: str) -> bool:
        """Tell whether a form comes from a page of this login."""
        return token.isascii() and hmac.compare_digest(token, self._sign("form", login))

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{text}".encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def name_of(text: str, otherwise: str) -> str:
    """Return the name that somebody gave at login, without what is no text for one line."""
    name = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return name[:_MAX_NAME_CHARS] or otherwise


class Guesses:
    """Counts wrong tokens, by where they came from."""

    def __init__(self) -> None:
        self._failed: list[tuple[float, str]] = []

    def wait_seconds(self, address: str, now: float) -> float:
        """Return how long whoever is at an address has to wait before a token is looked at, 0: not at all."""
        self._failed = [each for each in self._failed if now - each[0] < _WINDOW_SECONDS]
        own = [at for at, where in self._failed if where == address]
        for times, most in ((own, _MOST_FROM_ONE), ([at for at, _ in self._failed], _MOST_FROM_ALL)):
            if len(times) >= most:
                return times[-most] + _WINDOW_SECONDS - now
        return 0.0

    def failed(self, address: str, now: float) -> None:
        """Note a wrong token."""
        self._failed.append((now, address))
