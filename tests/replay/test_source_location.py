"""Where code is: the line of the user's own code, whatever it calls and whoever calls it."""

from __future__ import annotations

import threading

from stepwell.replay.source_location import executing_in


def test_what_a_thread_executes_is_named_by_the_innermost_line_of_the_users_code() -> None:
    def asks() -> str:
        return max("", key=str, default=executing_in(threading.get_ident()))

    place, _, name = asks().partition(" in ")
    assert place.rpartition(":")[0] == __file__
    assert name.endswith(".asks")


def test_of_a_thread_that_is_not_there_it_is_unknown() -> None:
    assert executing_in(-1) == "unknown"
