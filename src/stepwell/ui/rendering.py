"""Makes pages of templates. All that a template shows passes `_shown`: no payload is markup, or invisible.

What is shown twice, a status or a time, has its form in `templates/parts.html`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from stepwell.model.clock import datetime_of
from stepwell.model.durations import duration, length_in_words
from stepwell.model.sizes import size_in_words
from stepwell.ui import words
from stepwell.ui.filter_links import quoted

_HERE: Final = Path(__file__).parent
STATIC: Final = _HERE / "static"
#: The pages that each page leads to: the name by which it knows itself, its address, and what it is called.
PAGES: Final = (
    ("overview", "/", "Overview"),
    ("runs", "/runs", "Runs"),
    ("waiting", "/waiting", "Waiting"),
    ("queues", "/queues", "Queues"),
    ("schedules", "/schedules", "Schedules"),
    ("workers", "/workers", "Workers"),
    ("bulk", "/bulk", "Acts on many"),
    ("database", "/database", "Database"),
)


def _shown(value: object) -> object:
    """Return what is shown of the value of an expression: no invisible character in it, and None as nothing."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else words.visible(str(value))


def _exact(value: str) -> Markup:
    """Escape a text that comes back as it is, in a form's field; nothing of it is written out."""
    return escape(value)


def _told(text: str) -> Markup:
    """Return a sentence of the engine's as a page has it: commands as such, moments in the zone that was chosen."""
    forms = {
        "text": Markup("%s"),
        "command": Markup("<code>%s</code>"),
        "moment": Markup('<time datetime="%s" data-at>%s</time>'),
    }
    parts = words.pieces(words.visible(text))
    return Markup().join(forms[kind] % ((part, part) if kind == "moment" else part) for kind, part in parts)


def _address(path: str, parameters: dict[str, Any]) -> Markup:
    """Return an address below the present application, with parameters; those that are None or empty are left out.

    Ids may have any character, two dots included, so they stand in the query and never in the path.
    """
    given = {name: str(value) for name, value in parameters.items() if value is not None and value != ""}
    encoded = urlencode(given, quote_via=quote, errors="surrogatepass")
    return escape(f"{path}?{encoded}" if given else path)


@cache
def _version() -> str:
    """Return what changes whenever a static file does, so that browsers may keep these for ever."""
    found = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


@cache
def environment() -> Environment:
    """Return the templates, as they are compiled."""
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = made.filters
    filters |= {
        "exact": _exact,
        "duration": duration,
        "length_in_words": length_in_words,
        "json": words.as_json,
        "in_line": words.in_line,
        "size": size_in_words,
        "told": _told,
        "short_place": words.short_place,
        "short_error": words.short_error,
        "stamp": words.stamp,
        "word": quoted,
        "moment": datetime_of,
    }
    shared: dict[str, Any] = made.globals
    shared |= {
        "address": _address,
        "version": _version(),
        "seconds_between": _seconds_between,
        "pages": PAGES,
        "place_of": words.place_of,
    }
    return made


def _seconds_between(begin: datetime | None, end: datetime | None) -> float | None:
    return None if begin is None or end is None else (end - begin).total_seconds()


def render(template: str, context: dict[str, Any]) -> str:
    """Return a page."""
    return environment().get_template(template).render(context)
