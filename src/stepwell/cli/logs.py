"""Logging of the worker command, to standard error."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s"


def configure(level: str | None) -> None:
    """Set logging up where the user's modules have not; `level` (None: info) then counts for all loggers.

    Where they have, they decide what is shown and where, and a `level` that is given counts for Stepwell's own logger.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=(level or "info").upper(), format=FORMAT)
    elif level is not None:
        logging.getLogger("stepwell").setLevel(level.upper())
