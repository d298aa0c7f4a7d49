"""The web UI, in which people look at the runs of a file and act on them.

The rule: it reads only through the read service and acts only through handles, by `stepwell.api.face`; what a browser
sends is checked, and what is shown is escaped, in one place each (`guard`, `site`; `rendering`).

It needs the extra ``stepwell[ui]``. `app` makes the ASGI application; `stepwell ui` serves it.
"""

from __future__ import annotations

from stepwell.ui.access import User
from stepwell.ui.application import app

__all__ = ["User", "app"]
