"""Exceptions go into the file and come back as what they were, as far as that is safe."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import importlib.util
import json
import pickle
import subprocess
import sys
import traceback
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell import errors
from stepwell.errors import RunFailed, SerializationError, StepFailed
from stepwell.values.codec import Codec
from stepwell.values.failure import (
    LEFT_OUT_HEADER,
    TRACEBACK_HEADER,
    failure_from_json,
    failure_json,
    summary_from_json,
)


class Plain(Exception):
    pass


class Coded(Exception):
    """Takes something else than it hands on; pickle fails on it when it is read."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"failed with {code}")
        self.code = code
        self.detail = detail


class Wrapping(Exception):
    """Takes the text that it hands on for something else."""

    def __init__(self, order: str) -> None:
        super().__init__(f"order {order} failed")
        self.order = order


class Misled(Exception):
    """Has the same text whatever it is made from."""

    def __init__(self, cause: object) -> None:
        super().__init__("failed")
        self.origin = cause


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Described(Exception):
    def __init__(self, parts: dict[str, int]) -> None:
        super().__init__(parts)
        self.parts = parts

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.parts.items())


@dataclasses.dataclass
class Declined(Exception):
    code: int
    at: dt.datetime


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class MissingInput(FileNotFoundError):
    def __init__(self, name: str) -> None:
        super().__init__(2, "no such input", name)


class Reduced(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left}/{right}")

    def __reduce__(self) -> tuple[Any, ...]:
        left, right = str(self).split("/")
        return type(self), (int(left), int(right))


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Problem(enum.StrEnum):
    DECLINED = "declined"


def there_and_back(error: BaseException, fallback: Any = StepFailed) -> BaseException:
    return failure_from_json(failure_json(error), fallback)


def state(error: BaseException) -> tuple[Any, ...]:
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    return type(error), str(error), error.args, attributes


FAILURES: list[BaseException] = [
    ValueError("bad"),
    ValueError(),
    ValueError("two", "parts"),
    KeyError("key"),
    KeyError(("tuple", 1)),
    Plain("text"),
    Plain(1, 2.5, None, [True, {"a": "b"}]),
    Plain((1, (2, b"\xff")), {1: {2}}, frozenset({"x"}), {"$": "tricky"}, float("inf")),
    Plain(decimal.Decimal("1.50"), uuid.UUID(int=1), dt.timedelta(days=-1, microseconds=3)),
    Plain(dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.date(2024, 1, 1), dt.time(1, 2, 3)),
    Plain("x" * 7000),
    Coded(7, detail="deep"),
    Wrapping("7"),
    Slotted(7),
    Described({"a": 1}),
    Declined(3, dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
    Frozen(3),
    Reduced(1, 2),
    FileNotFoundError(2, "No such file", "/a/b"),
    OSError(2, "No such file", "/a", None, "/b"),
    FileNotFoundError(2, "No such file", Path("/a/b")),
    MissingInput("orders"),
    ImportError("no", name="shop", path="/shop.py"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    SyntaxError("bad", ("f.py", 1, 2, "x ==", 1, 3)),
    TimeoutError("late"),
    asyncio.CancelledError("why"),
    errors.RetryLater("busy", delay=3.5),
    errors.SerializationError("no", where="there", path="$.a"),
    errors.StepTimeout("late"),
    errors.RunFailed("gone", traceback_text="x"),
    errors.RunDeadlineExceeded("late", type_name="", traceback_text=""),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_an_exception_comes_back_with_type_text_arguments_and_attributes(error: BaseException) -> None:
    back = there_and_back(error)
    assert state(back) == state(error)
    assert type(back) is type(error)
    for name in ("errno", "filename", "filename2", "name", "path", "lineno", "code", "object"):
        assert getattr(back, name, None) == getattr(error, name, None)
    assert failure_json(back) == failure_json(error)


def test_an_exception_that_does_not_unpickle_comes_back_all_the_same() -> None:
    error = Coded(7, detail="deep")
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(error))
    back = there_and_back(error)
    assert isinstance(back, Coded)
    assert (back.code, back.detail, str(back)) == (7, "deep", "failed with 7")


def test_what_is_no_plain_value_is_left_out_and_never_guessed() -> None:
    back = there_and_back(Misled(object()))
    assert isinstance(back, Misled)
    assert str(back) == "failed"
    assert not hasattr(back, "origin")


def test_nothing_is_recorded_of_what_an_exception_refers_to() -> None:
    class Request:
        def __repr__(self) -> str:
            return "Authorization: secret"

    error = Plain("refused")
    error.request = Request()  # type: ignore[attr-defined]
    error.response = {"request": Request()}  # type: ignore[attr-defined]
    password = "secret"
    try:
        raise error from Misled(Request())
    except Plain as caught:
        text = failure_json(caught)
    assert password not in text.replace('password = "secret"', "")
    assert "Authorization" not in text


class Response:
    status_code = 404

    def __init__(self) -> None:
        self.retry_after = 2.5
        self.text = "the secret"
        self.request = object()
        self._private = 7


class SlottedResponse:
    __slots__ = ("code", "text", "unset")

    def __init__(self) -> None:
        self.code = 500
        self.text = "the secret"


class Refused(Exception):
    def __init__(self, message: str, response: object) -> None:
        super().__init__(message)
        self.response = response


def notes_of(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", []) if not note.startswith(TRACEBACK_HEADER)]


def test_of_an_object_that_is_no_plain_value_the_numbers_are_kept_and_a_note_says_so() -> None:
    back = there_and_back(Refused("404 for /x", Response()))
    assert isinstance(back, Refused)
    response: Any = back.response
    assert (response.status_code, response.retry_after) == (404, 2.5)
    with pytest.raises(AttributeError, match=r"Response only status_code, retry_after was recorded, and not text"):
        _ = response.text
    assert not hasattr(response, "_private")
    assert repr(response) == f"<recorded of {__name__}.Response: status_code=404, retry_after=2.5>"
    (note,) = notes_of(back)
    assert note.startswith(LEFT_OUT_HEADER)
    assert note.endswith("which is no plain value (kept of it: status_code, retry_after)")
    slotted: Any = there_and_back(Refused("no", [SlottedResponse()]))
    assert slotted.response[0].code == 500


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "`response` is an object, which is no plain value"),
        ({"deep": [lambda: 1]}, "`response` is a function, which is no plain value"),
        (Response, "`response` is a type, which is no plain value"),
        ("x" * 9000, "`response` is too long a text to record"),
        ("\ud800", "`response` is text with lone surrogates"),
        (10**2000, "`response` is too large to record"),
        (list(range(900)), "`response` is too much to record"),
    ],
)
def test_a_note_says_which_attribute_is_missing_and_why(value: object, told: str) -> None:
    back = there_and_back(Refused("no", value))
    assert type(back) is Refused
    assert not hasattr(back, "response")
    assert notes_of(back) == [LEFT_OUT_HEADER + told]


def test_what_is_left_of_an_exception_stays_so_when_it_is_recorded_again() -> None:
    error = Refused("no", Response())
    error.other = object()  # type: ignore[attr-defined]
    error.add_note("of the user")
    first = there_and_back(error)
    again = there_and_back(first)
    assert isinstance(again, Refused)
    assert isinstance(first, Refused)
    assert notes_of(again) == notes_of(first)
    assert len(notes_of(first)) == 2
    assert again.response == first.response
    assert failure_json(again) == failure_json(first)


def test_an_exception_with_nothing_missing_has_no_note() -> None:
    error = Refused("no", {"a": (1, {2}, dt.date(2024, 1, 1)), 3: Problem.DECLINED})
    assert notes_of(there_and_back(error)) == []
    assert notes_of(there_and_back(ExceptionGroup("g", [error]))) == []


def test_what_is_too_large_as_a_whole_is_missed_as_well() -> None:
    back = failure_from_json(failure_json(Coded(7, detail="x" * 5000), max_bytes=2000), StepFailed)
    assert notes_of(back) == [f"{LEFT_OUT_HEADER}its arguments and attributes are too large to record"]


def test_exceptions_among_the_attributes_come_back_with_theirs() -> None:
    causes = [Coded(1, detail="a"), ValueError("b")]
    back = there_and_back(Refused("gave up", causes))
    assert isinstance(back, Refused)
    assert list(map(state, back.response)) == list(map(state, causes))  # type: ignore[call-overload]
    assert notes_of(back) == []


def test_an_exception_that_holds_itself_is_recorded_without() -> None:
    error = Refused("no", None)
    error.response = [error]
    back = there_and_back(error)
    assert not hasattr(back, "response")
    assert notes_of(back) == [
        f"{LEFT_OUT_HEADER}`response` leads back to an exception that contains it, or is one too many"
    ]


def test_attributes_that_would_spoil_the_text_are_given_up_before_the_class() -> None:
    error = OSError(5, "broken", object())
    back = there_and_back(error)
    assert type(back) is OSError
    assert str(back) == str(error)


def test_arguments_that_are_no_plain_values_leave_the_text() -> None:
    back = there_and_back(Plain("text", object))
    assert type(back) is Plain
    assert str(back) == str(Plain("text", object))


def test_enumerations_come_back_as_their_members_and_stay_so() -> None:
    first = there_and_back(Plain(Problem.DECLINED))
    assert first.args[0] is Problem.DECLINED
    assert state(there_and_back(first)) == state(first)


def test_a_member_that_is_gone_comes_back_as_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    text = failure_json(Plain(Problem.DECLINED))
    monkeypatch.delitem(vars(sys.modules[__name__]), "Problem")
    assert failure_from_json(text, StepFailed).args == ("declined",)


def test_an_exception_whose_text_cannot_be_told_is_recorded() -> None:
    text = failure_json(Mute("x"))
    assert summary_from_json(text) == (
        f"{Mute.__module__}.Mute",
        "<its text cannot be told: str() raised RuntimeError>",
    )
    assert type(failure_from_json(text, StepFailed)) is Mute


def test_text_that_utf8_cannot_hold_is_escaped() -> None:
    back = there_and_back(Plain("a\ud800b"))
    assert str(back) == "a\\ud800b"
    assert state(there_and_back(back)) == state(back)


# --- the class -------------------------------------------------------------------------------------------------------


def shop_module() -> types.ModuleType:
    module = types.ModuleType("shop_errors")
    source = """
class Declined(Exception):
    pass
class Outer:
    class Inner(Exception):
        pass
    not_a_class = 5
def __getattr__(name):
    raise AssertionError(f"asked for {name}")
calls = []
def function(*args):
    calls.append(args)
class NotAnError:
    def __init__(self, *args):
        calls.append(args)
"""
    exec(source, vars(module))
    return module


def test_a_class_that_is_not_imported_gives_the_fallback_with_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    module = shop_module()
    monkeypatch.setitem(sys.modules, "shop_errors", module)
    error = module.Declined("no funds")
    text = failure_json(error)
    assert type(failure_from_json(text, StepFailed)) is module.Declined
    assert type(there_and_back(module.Outer.Inner("x"))) is module.Outer.Inner

    monkeypatch.delitem(sys.modules, "shop_errors")
    for fallback in (StepFailed, RunFailed):
        back = failure_from_json(text, fallback)
        assert type(back) is fallback
        assert (back.args, str(back)) == (("no funds",), "shop_errors.Declined: no funds")
        assert back.type_name == "shop_errors.Declined"
    assert "shop_errors" not in sys.modules


def test_a_fallback_keeps_the_name_of_the_class_and_can_become_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module = shop_module()
    back = there_and_back(module.Declined("no funds"))
    assert isinstance(back, StepFailed)
    again = there_and_back(back, RunFailed)
    assert isinstance(again, RunFailed)
    assert (again.type_name, str(again)) == ("shop_errors.Declined", "shop_errors.Declined: no funds")
    text = failure_json(again)
    monkeypatch.setitem(sys.modules, "shop_errors", module)
    assert type(failure_from_json(text, StepFailed)) is module.Declined


NOT_AN_EXCEPTION = [
    "shop_errors.function",
    "shop_errors.NotAnError",
    "shop_errors.missing",
    "shop_errors.Outer.not_a_class",
    "shop_errors.Outer.__init__",
    "shop_errors",
    "builtins.exec",
    "os.system",
    "int",
    "",
    ".",
    "a..b",
    "tests.<locals>.X",
]


@pytest.mark.parametrize("name", NOT_AN_EXCEPTION)
def test_a_name_that_is_no_exception_class_is_never_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = shop_module()
    monkeypatch.setitem(sys.modules, "shop_errors", module)
    back = failure_from_json(json.dumps({"type": name, "message": "x", "args": ["echo"]}), StepFailed)
    assert type(back) is StepFailed
    assert module.calls == []


def test_nothing_is_imported_for_an_exception() -> None:
    program = """
import sys
from stepwell.errors import StepFailed
from stepwell.values.failure import failure_from_json
before = set(sys.modules)
for name in ("wave.Error", "zipfile.BadZipFile", "xml.parsers.expat.ExpatError"):
    error = failure_from_json('{"type":"%s","message":"m","args":["m"]}' % name, StepFailed)
    assert type(error) is StepFailed and error.type_name == name, error
assert set(sys.modules) == before, set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_module_that_waits_to_be_loaded_is_not_loaded_for_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "waiting.py"
    file.write_text("raise AssertionError('loaded')")
    spec = importlib.util.spec_from_file_location("waiting", file)
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "waiting", module)
    loader.exec_module(module)
    back = failure_from_json('{"type":"waiting.Error","message":"m","args":["m"]}', StepFailed)
    assert type(back) is StepFailed


STEERING: list[type[BaseException]] = [
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    BaseException,
]


@pytest.mark.parametrize("cls", STEERING)
def test_what_steers_the_interpreter_comes_back_as_the_fallback(cls: type[BaseException]) -> None:
    back = there_and_back(cls("x"))
    assert type(back) is StepFailed
    assert (back.type_name, str(back)) == (cls.__name__, f"{cls.__name__}: x")
    subclass = type("Sub", (cls,), {"__module__": __name__})
    globals()["Sub"] = subclass
    assert type(there_and_back(subclass("x"))) is StepFailed


def test_a_class_that_cannot_be_made_from_outside_gives_the_fallback() -> None:
    class Model(pydantic.BaseModel):
        number: int

    with pytest.raises(pydantic.ValidationError) as caught:
        Model(number="x")  # type: ignore[arg-type]
    back = there_and_back(caught.value)
    assert isinstance(back, StepFailed)
    assert back.args == (str(caught.value),)


def test_a_constructor_that_exits_does_not_stop_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise RuntimeError

    text = failure_json(Plain("x"))
    monkeypatch.setattr(Plain, "__init__", refuse)
    assert type(failure_from_json(text, StepFailed)) is Plain


# --- causes, groups, notes, traceback --------------------------------------------------------------------------------


def raise_chain() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise Wrapping("7") from error
    except Wrapping:
        raise Plain("last")  # noqa: B904 - the context is what is tested


def caught(call: Callable[[], None]) -> BaseException:
    try:
        call()
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError


def test_cause_and_context_come_along() -> None:
    back = there_and_back(caught(raise_chain))
    context = back.__context__
    assert isinstance(context, Wrapping)
    assert isinstance(context.__cause__, KeyError)
    assert context.__suppress_context__
    assert not back.__suppress_context__
    shown = "".join(traceback.format_exception(back))
    assert "direct cause" in shown
    assert "During handling" in shown


def test_a_suppressed_context_is_not_recorded() -> None:
    error = caught(raise_chain)
    error.__suppress_context__ = True
    back = there_and_back(error)
    assert back.__context__ is None
    assert back.__suppress_context__


def test_causes_in_a_circle_and_without_end_are_cut() -> None:
    first, second = Plain("first"), Plain("second")
    first.__cause__, second.__cause__ = second, first
    back = there_and_back(first)
    assert isinstance(back.__cause__, Plain)
    assert back.__cause__.__cause__ is None

    error = Plain("0")
    for number in range(5000):
        following = Plain(str(number))
        following.__cause__, error = error, following
    assert len(failure_json(error)) < 20_000


def test_a_group_comes_back_with_its_members() -> None:
    error = ExceptionGroup("several", [Plain("a"), ExceptionGroup("inner", [Coded(1, detail="d")])])
    error.add_note("a note")
    back = there_and_back(error)
    assert isinstance(back, ExceptionGroup)
    assert str(back) == str(error)
    assert back.__notes__ == ["a note"]
    plain, inner = back.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert type(plain) is Plain
    assert isinstance(inner.exceptions[0], Coded)
    assert failure_json(back) == failure_json(error)


def test_a_group_with_a_cancellation_comes_back() -> None:
    back = there_and_back(BaseExceptionGroup("several", [asyncio.CancelledError(), Plain("a"), SystemExit(3)]))
    assert isinstance(back, BaseExceptionGroup)
    assert [type(member) for member in back.exceptions] == [asyncio.CancelledError, Plain, StepFailed]


def test_a_group_of_groups_of_groups_is_cut() -> None:
    error: Exception = Plain("x")
    for _ in range(4):
        error = ExceptionGroup("g", [error] * 12)
    assert len(failure_json(error, max_bytes=10**9)) < 100_000
    assert isinstance(there_and_back(error), ExceptionGroup)


def test_a_group_class_with_other_arguments_comes_back_as_a_plain_group() -> None:
    class Odd(ExceptionGroup[Exception]):
        def __new__(cls, members: list[Exception]) -> Self:
            return super().__new__(cls, "odd", members)

    globals()["Odd"] = Odd
    Odd.__qualname__ = "Odd"
    back = there_and_back(Odd([Plain("a")]))
    assert type(back) is ExceptionGroup
    assert str(back) == "odd (1 sub-exception)"


def test_notes_come_along_in_order() -> None:
    error = Plain("x")
    error.add_note("first")
    error.add_note("second")
    assert there_and_back(error).__notes__ == ["first", "second"]


def test_the_traceback_is_shown_as_a_note_and_the_text_is_unchanged() -> None:
    error = caught(raise_chain)
    back = there_and_back(error)
    (note,) = back.__notes__
    assert note.startswith(TRACEBACK_HEADER)
    assert 'raise Plain("last")' in note
    assert "in raise_chain" in note
    assert str(back) == str(error) == "last"
    assert note in "".join(traceback.format_exception(back))


def test_a_traceback_that_came_through_a_file_is_kept_once_and_continued() -> None:
    def raise_again() -> None:
        raise back

    error = caught(raise_chain)
    back = there_and_back(error)
    assert failure_json(back) == failure_json(error)
    (note,) = there_and_back(caught(raise_again)).__notes__
    assert note.count(TRACEBACK_HEADER) == 1
    assert note.index("in raise_chain") < note.index("in raise_again")


def test_the_fallback_has_the_traceback_as_text_too() -> None:
    back = there_and_back(caught(lambda: sys.exit(3)))
    assert isinstance(back, StepFailed)
    assert "sys.exit(3)" in back.traceback_text


def test_frames_of_the_engine_are_left_out() -> None:
    def read() -> None:
        failure_from_json("{", StepFailed)

    error = caught(read)
    text = json.loads(failure_json(error))["traceback"]
    assert "failure_from_json" in text  # the line that called it
    assert "failure.py" not in text.replace("test_failure.py", "")


def test_the_traceback_of_an_endless_recursion_is_bounded() -> None:
    def recurse() -> None:
        recurse()

    text = failure_json(caught(recurse))
    assert len(text) < 20_000
    assert type(failure_from_json(text, StepFailed)) is RecursionError


# --- size and damage -------------------------------------------------------------------------------------------------


def test_a_failure_is_cut_to_size_but_keeps_name_and_text() -> None:
    error = Plain("text")
    error.payload = ["x" * 1000] * 300  # type: ignore[attr-defined]
    for _ in range(10):
        error.add_note("n" * 5000)
    error.__cause__ = Plain("y" * 7000)
    for limit in (64 * 1024, 10_000, 2000, 300):
        text = failure_json(error, max_bytes=limit)
        assert len(text) <= limit
        back = failure_from_json(text, StepFailed)
        assert (type(back), str(back)) == (Plain, "text")


def test_a_long_text_is_cut_and_stays_as_it_is_then() -> None:
    back = there_and_back(Plain("x" * 1_000_000))
    assert len(str(back)) < 10_000
    assert state(there_and_back(back)) == state(back)


def test_a_summary_tells_type_and_text() -> None:
    assert summary_from_json(failure_json(ValueError("bad"))) == ("ValueError", "bad")
    assert summary_from_json(failure_json(Plain("bad"))) == (f"{__name__}.Plain", "bad")


@pytest.mark.parametrize("length", [3, 50_000])
def test_a_failure_goes_through_the_codec_as_every_value_does(length: int) -> None:
    codec, error = Codec(), Plain("bad" * length)
    error.add_note("told at the door " * length)
    payload = codec.encode_failure(error)
    assert isinstance(payload, str if length == 3 else bytes)
    back = codec.decode_failure(payload, StepFailed)
    assert state(back) == state(there_and_back(error))
    assert codec.failure_summary(payload) == (f"{__name__}.Plain", str(back))
    assert codec.show_failure(payload).message == str(back)
    attempt = codec.decode_attempt(codec.encode_attempt(failure_json(error), 7, 5, 3))
    assert (attempt.retry_at, attempt.first_started_at, attempt.code) == (7, 5, 3)
    assert state(failure_from_json(bytes(attempt.failure), StepFailed)) == state(back)


@pytest.mark.parametrize("payload", [None, "", "{", "[]", "{}", '{"type":1,"message":""}', b"\x01x", b"\x09"])
def test_a_damaged_failure_is_an_error_not_a_surprise(payload: Any) -> None:
    codec = Codec()
    for read in (codec.failure_summary, codec.show_failure, codec.decode_attempt):
        with pytest.raises(SerializationError, match="a recorded failure"):
            read(payload)
    with pytest.raises(SerializationError, match="a recorded failure"):
        codec.decode_failure(payload, StepFailed)


@pytest.mark.parametrize(
    "value", [{"$": "os.system", "value": "x"}, {"$": "tuple"}, {"$": []}, {"$": "Decimal", "value": []}]
)
def test_a_damaged_value_in_a_failure_gives_the_fallback(value: object) -> None:
    text = json.dumps({"type": "ValueError", "message": "bad", "args": [value]})
    assert type(failure_from_json(text, StepFailed)) is StepFailed


# --- properties ------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes().map(lambda time: time.replace(fold=0))  # ISO 8601 has no fold
    | st.timedeltas()
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.just("$") | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.lists(VALUES, max_size=3), st.dictionaries(st.sampled_from("abc"), VALUES))
def test_what_the_first_execution_sees_is_what_every_replay_sees(args: list[Any], attributes: dict[str, Any]) -> None:
    error = Plain(*args)
    vars(error).update(attributes)
    back = there_and_back(error)
    assert state(back) == state(error)
    assert repr(back.args) == repr(error.args)
    assert failure_json(back) == failure_json(error)


@given(st.lists(VALUES | st.builds(object), max_size=3))
def test_an_exception_with_any_arguments_settles_after_one_trip(args: list[Any]) -> None:
    for cls in (Plain, ValueError, KeyError, OSError, Misled):
        try:
            error = cls(*args)
        except TypeError:
            continue
        back = there_and_back(error)
        assert type(back) is type(error)
        assert state(there_and_back(back)) == state(back)
