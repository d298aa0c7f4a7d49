"""Random texts that nobody can guess, from the operating system's chance."""

from __future__ import annotations

from stepwell.model.promise import TOKEN_BYTES


def new_token() -> str:
    """Return another token, safe in a URL."""
    import secrets  # with the first token: most programs need none

    while (token := secrets.token_urlsafe(TOKEN_BYTES)).startswith("-"):  # a command line would take it for an option
        pass
    return token
