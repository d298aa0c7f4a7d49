"""What happens to payloads on their way into the file is a chain of small objects, which failures pass as well."""

from __future__ import annotations

import ast
import zlib
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stepwell
from stepwell import Engine, Retry, SerializationError, publish, receive, step, workflow
from stepwell.api import session
from stepwell.values.codec import Codec
from stepwell.values.transforms import COMPRESS_ABOVE_BYTES, Compression, Transforms

PACKAGE = Path(stepwell.__file__).parent


class Veil:
    """A transform that hides what it is given: the place of encryption in these tests."""

    mark = 2
    plain_bytes = 0

    def __init__(self, key: int = 0x5A) -> None:
        self.key = key

    def apply(self, data: bytes) -> bytes | None:
        return bytes([self.key, *(byte ^ self.key for byte in data)])

    def undo(self, data: memoryview) -> bytes:
        if data[0] != self.key:
            raise ValueError("another key")
        return bytes(byte ^ self.key for byte in data[1:])


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=50))
def test_a_value_comes_back_through_the_whole_chain(value: Any) -> None:
    codec = Codec(compress_above_bytes=20, further=[Veil()])
    payload = codec.encode(value, "a value")
    assert payload is None or (isinstance(payload, bytes) and payload[0] == Veil.mark)
    assert codec.decode(payload, Any, "a value") == value
    assert codec.show(payload, "a value") == value


def test_transforms_are_applied_in_order_and_each_leaves_alone_what_it_does_no_good_to() -> None:
    chain = Transforms([Compression(20), Veil()])
    small, large = chain.apply(b"[1]"), chain.apply(b'"%s"' % (b"a" * 100))
    assert isinstance(small, bytes)
    assert isinstance(large, bytes)
    assert Veil().undo(memoryview(small)[1:]) == b"[1]"
    assert Veil().undo(memoryview(large)[1:])[:1] == b"\x01"  # compressed first: what is hidden does not shrink
    assert chain.undo(large, "it") == f'"{"a" * 100}"'


def test_a_file_keeps_what_was_written_by_another_chain() -> None:
    compressed = Codec(compress_above_bytes=20).encode("a" * 100, "it")
    codec = Codec(further=[Veil()])
    assert codec.decode(compressed, str, "it") == "a" * 100
    assert codec.decode('"plain"', str, "it") == "plain"


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"\x07x", b"\x01" + zlib.compress(b"\x07"), b"\x01damaged", b"\x02\x5a1"]
)
def test_a_payload_that_nobody_can_read_is_an_error_that_names_it(payload: bytes) -> None:
    with pytest.raises(SerializationError, match="the result of 'it'"):
        Codec().decode(payload, Any, "the result of 'it'")


def test_a_payload_of_another_key_is_an_error_that_names_it() -> None:
    payload = Codec(further=[Veil(1)]).encode("secret", "it")
    with pytest.raises(SerializationError, match="it: what the file holds is damaged"):
        Codec(further=[Veil(3)]).decode(payload, str, "it")


def test_small_payloads_of_the_usual_chain_are_text_that_people_can_read() -> None:
    assert Codec().plain_bytes == COMPRESS_ABOVE_BYTES
    assert Codec().encode({"a": 1}, "it") == '{"a":1}'
    assert Codec(further=[Veil()]).plain_bytes == 0


# --- nothing goes past it --------------------------------------------------------------------------------------------

SECRET = "the-secret-text"


@step(retry=Retry(attempts=2, delay=0.01))
def refuses(word: str) -> str:
    raise LookupError(f"{word} is refused")


@step
def repeats(word: str) -> str:
    return word * 2


@workflow
async def child(word: str) -> str:
    raise ValueError(f"child of {word}")


@workflow
async def passes(word: str) -> str:
    said = await receive("word", str)
    await publish("last", word + said)
    repeats(word)
    try:
        await child(word)
    except ValueError as error:
        assert SECRET in str(error)  # noqa: PT017 - code of a workflow
    try:
        refuses(word)
    except LookupError:
        return word
    return "?"


@workflow
async def ends_badly(word: str) -> None:
    raise ValueError(word)


@workflow
async def cannot_go_on(word: str) -> Any:
    return {word: object()}


def test_no_value_and_no_failure_gets_into_the_file_past_the_transforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns for people say why a run is halted, or what it waits for, in words; those alone are left as they are."""
    monkeypatch.setattr(session, "Codec", lambda **options: Codec(**options, further=[Veil()]))
    path = tmp_path / "w.db"
    with Engine(path, workflows=[passes, child, ends_badly]) as engine:
        run = engine.start(passes, SECRET, id="run")
        run.send("word", SECRET)
        assert run.result(30) == SECRET
        failed = engine.start(ends_badly, SECRET, id="failed")
        with pytest.raises(ValueError, match=SECRET):
            failed.result(30)
        error = failed.info().error
        assert error is not None
        assert SECRET in error
        attempt = next(entry for entry in run.journal() if entry.kind == "attempt_failed")
        assert attempt.failure is not None
        assert SECRET in attempt.failure.message
    with Engine(path, workflows=[passes, child, ends_badly]) as engine:  # what another process reads
        assert engine.get("run").result(30) == SECRET
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    payloads = {
        "stepwell_runs": ("input", "result", "error", "halted_by"),
        "stepwell_journal": ("value",),
        "stepwell_messages": ("value",),
        "stepwell_values": ("value",),
    }
    seen = 0
    for table, columns in payloads.items():
        for column in columns:
            for (value,) in connection.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"):
                assert isinstance(value, bytes), f"{table}.{column} holds {value!r}, which went past the transforms"
                assert value[0] == Veil.mark
                seen += 1
    connection.close()
    assert seen >= 12


def test_only_the_codec_and_the_pipes_of_child_processes_make_json_of_failures() -> None:
    """What is recorded of an exception is a payload; `failure_json` makes text that no transform has seen."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and any(name.name == "failure_json" for name in node.names)
    }
    # Those of `step_outcomes` go to `pack_failure` and `encode_attempt`.
    assert users == {
        *("values/failure_codec.py", "executors/child_main.py", "executors/process_pool.py"),
        "worker/arriving/step_outcomes.py",
    }
