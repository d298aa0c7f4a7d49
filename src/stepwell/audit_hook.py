"""The process's one audit hook (PEP 578): parts of the engine listen to events, and may forbid what they announce.

An audit hook cannot be removed and runs on every event of the process, so there is only this one: it is installed when
the first engine opens, never at import, and costs one dictionary look-up for events that nobody listens to.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Final

from stepwell.errors import FileNotUsable

#: Called with an event's name and arguments; whatever it raises, the audited operation raises instead of happening.
Listener = Callable[[str, tuple[object, ...]], None]

#: Asked for only by `install`, to see whether the hook is really there.
_PROBE_EVENT: Final = "stepwell.audit_hook.probe"

# Changed in place, each value replaced as a whole: the hook reads it without a lock.
_listeners: dict[str, tuple[Listener, ...]] = {}
_lock = threading.Lock()
_installed = False


def add_listener(events: frozenset[str], listener: Listener) -> Callable[[], None]:
    """Have `listener` called for each of the audit `events`, in every thread, before the operation happens.

    Return a function that ends this. The listener must be quick, must not itself cause an event it listens to, and may
    raise to forbid the operation. Raises `FileNotUsable` where another hook of the process forbids audit hooks.
    """
    install()
    with _lock:
        for event in events:
            _listeners[event] = (*_listeners.get(event, ()), listener)

    def remove() -> None:
        with _lock:
            for event in events:
                _remove(event, listener)

    return remove


def install() -> None:
    """Install the hook, once in a process. Raises `FileNotUsable` where another hook forbids it."""
    global _installed  # noqa: PLW0603 -- hooks belong to the process, so this does
    with _lock:
        if _installed:
            return
        seen: list[str] = []
        sys.addaudithook(_make_hook(_listeners))
        # Adding a hook is itself audited, and a refusal of that is swallowed: so look whether it took.
        _listeners[_PROBE_EVENT] = (lambda event, _args: seen.append(event),)
        try:
            sys.audit(_PROBE_EVENT)
        finally:
            del _listeners[_PROBE_EVENT]
        if not seen:
            raise FileNotUsable(
                "An audit hook of this process forbids further ones, so the engine's file cannot be guarded against a "
                "second SQLite library. Allow `sys.addaudithook` until the engine is open."
            )
        _installed = True


def after_fork_in_child() -> None:
    """Make the lock anew: a thread that only the parent has may hold it. The listeners stay, and so does the hook."""
    global _lock  # noqa: PLW0603 -- see above
    _lock = threading.Lock()


def _remove(event: str, listener: Listener) -> None:
    left = list(_listeners.get(event, ()))
    if listener in left:
        # One entry only: the same function may have been added twice.
        left.remove(listener)
    if left:
        _listeners[event] = tuple(left)
    else:
        _listeners.pop(event, None)


def _make_hook(listeners: dict[str, tuple[Listener, ...]]) -> Callable[[str, tuple[object, ...]], None]:
    # Everything is bound here, because the hook outlives this module's globals when the interpreter shuts down.
    get = listeners.get

    def hook(event: str, args: tuple[object, ...]) -> None:
        found = get(event)
        if found is not None:
            for listener in found:
                listener(event, args)

    return hook
