"""Values of many megabytes: how to tell them, how to read them without the collector, and who is told of them.

While a million objects are made, the garbage collector looks at all of them again and again, and finds nothing: what is
read from JSON has no cycles. Without it reading takes a third of the time.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, Final

from stepwell.values.inspection import ATOMS, class_of, fields_of, items_of, mapping_of

#: JSON of this size is large, in bytes: what takes longer than handing it to another thread and back.
LARGE_BYTES: Final = 256 * 1024

#: A list of so many items may be large; whether it is, some of them tell.
_MANY: Final = 1024
_EVERY: Final = _MANY // 32

#: How many short texts, and of how many characters, are not looked at any further.
_FEW: Final = 16
_SHORT: Final = 1000

#: How many items of a collection are looked at, and how deep.
_SAMPLE: Final = 4
_DEPTH: Final = 4
_BYTES_OF_NUMBER: Final = 6
#: With its name, quotes and colon.
_BYTES_OF_FIELD: Final = 12
_NUMBERS: Final = frozenset({type(None), bool, int, float})

_NOT_PAUSED: Final = nullcontext()

#: For how long a healthy process may be at one value, with its commit: five times what was seen on a busy machine. For
#: a part of that one call holds the interpreter, and nothing else of the process executes.
SECONDS_PER_BYTE: Final = 0.5e-6

#: Who is told, before a large value is looked at, for how many seconds the process may be busy with it.
watchers: Final[set[Callable[[float], None]]] = set()

_mutex: Final = threading.Lock()
_pauses = 0


def note_value(value: Any) -> bool:
    """Tell whether a value looks large and, if so, the `watchers` how long the process may be busy with it."""
    size_bytes = _likely_bytes(value)
    if size_bytes <= LARGE_BYTES:
        return False
    note_size(int(size_bytes))
    return True


def note_size(size_bytes: int) -> None:
    """Tell the `watchers` of JSON of this size, if that is large."""
    if size_bytes >= LARGE_BYTES:
        for watcher in tuple(watchers):
            watcher(size_bytes * SECONDS_PER_BYTE)


def is_long_list(value: Any) -> bool:
    """Tell whether a value is a list of so many items that it may be large."""
    return class_of(value) is list and len(value) >= _MANY


def items_a_part(value: list[Any], write: Callable[[Any], bytes]) -> int:
    """Return how many items of a list have about `LARGE_BYTES` as JSON; 0 where all have less.

    The `watchers` are told of a large one.
    """
    some = value[:: len(value) // _MANY * _EVERY]
    item_bytes = len(write(some)) / len(some)
    size_bytes = item_bytes * len(value)
    if size_bytes < LARGE_BYTES:
        return 0
    note_size(int(size_bytes))
    return max(1, int(LARGE_BYTES / item_bytes))


def _likely_bytes(value: Any) -> float:
    """Return about how long the JSON of a value is, 0 where it is short."""
    if type(value) in _NUMBERS:
        return 0.0
    kind = class_of(value)
    if kind is str:
        return len(value)
    # Most are a few short texts and numbers, which are not worth a guess.
    held: Any = value if kind is list else mapping_of(value).values() if kind is dict else ()
    if held and len(held) <= _FEW:
        for item in held:
            if type(item) not in _NUMBERS and not (type(item) is str and len(item) <= _SHORT):
                break
        else:
            return 0.0
    elif kind is list and len(held) <= _SHORT and type(held[0] if held else None) in _NUMBERS:
        return 0.0
    return _guess(value, _DEPTH)


def _guess(value: Any, depth: int) -> float:
    kind = class_of(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind in ATOMS or depth == 0:
        return _BYTES_OF_NUMBER
    if isinstance(value, dict):
        mapping = mapping_of(value)
        few = list(islice(mapping.items(), _SAMPLE))
        return _scaled([_guess(key, depth - 1) + _guess(item, depth - 1) for key, item in few], len(mapping))
    if isinstance(value, (list, tuple)):
        items = items_of(value)
        step = max(1, len(items) // _SAMPLE)
        return _scaled([_guess(item, depth - 1) for item in islice(items, 0, None, step)][: _SAMPLE + 1], len(items))
    if isinstance(value, (set, frozenset)):
        return _scaled([_guess(item, depth - 1) for item in islice(items_of(value), _SAMPLE)], len(items_of(value)))
    names = fields_of(value)
    size = float(_BYTES_OF_FIELD * len(names))
    for name in names:
        held = getattr(value, name, None)
        if type(held) is str:
            size += len(held)
        elif type(held) not in _NUMBERS:
            size += _guess(held, depth - 1)
    return size


def _scaled(sizes: list[float], count: int) -> float:
    return sum(sizes) / len(sizes) * count if sizes else 0.0


@contextmanager
def collector_paused(*, when: bool = True) -> Generator[None]:
    """Keep the garbage collector from running, in all threads, unless the program has switched it off anyway."""
    global _pauses  # noqa: PLW0603 - there is one collector
    if not when:
        yield
        return
    with _mutex:
        is_ours = _pauses > 0 or gc.isenabled()
        if is_ours:
            _pauses += 1
            gc.disable()
    try:
        yield
    finally:
        if is_ours:
            with _mutex:
                _pauses -= 1
                if not _pauses:
                    gc.enable()


def paused_for(text: str | bytes) -> AbstractContextManager[None]:
    """Keep the collector from running while JSON is read, if there is much of it; the `watchers` are told before."""
    if len(text) < LARGE_BYTES:
        return _NOT_PAUSED
    note_size(len(text))
    return collector_paused()
