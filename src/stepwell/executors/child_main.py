"""The child process that executes isolated steps, one after another: its entry point, and the format of its pipe.

`stepwell.executors.process_pool` starts it as a fresh interpreter, so it has no lock, connection or thread of the
engine. It finds a step by the name of its module and the name in it, hands over nothing but JSON as the codec writes
it, and knows nothing of the file. A keeper (`stepwell.executors.keeper`) stands between the two and sees to the end of
all that a step has started. The child ends when the keeper does: the kernel kills it (Linux), and a thread waits for
the end of a pipe whose other end the keeper holds.

First comes the parent's `sys.path`, which `PROGRAM` reads, so that both find the same modules from the first import on.
The rest are frames: one byte of kind, four bytes of length (big-endian), and so many bytes. The parent sends `SETUP`
once, then a `CALL` each time the child is idle; the child says `STARTED` once, answers `LOADED` when it had to import
the step first, and then one of `VALUE`, `NOTHING`, `PACKED`, `FAILED`, `REFUSED`. What a step says meanwhile (see
`stepwell.definitions.saying`) it sends as `SAID`, as MessagePack; the parent answers each with `HEARD`. How far it is
(`stepwell.executors.child_reports`) it sends as `PROGRESS`, to which there is no answer. Text that
begins with "F" instead of a kind is what `faulthandler` says of a crash: it writes to the same pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import importlib
import os
import runpy
import signal
import sys
import threading
from asyncio.events import _get_running_loop
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final, NoReturn, cast

import msgspec

from stepwell.definitions import invoke
from stepwell.definitions.callables import MAIN_IN_A_CHILD, refuse_coroutine
from stepwell.definitions.definition import Step
from stepwell.definitions.durable import as_definition
from stepwell.definitions.reports import Progress, Reports
from stepwell.definitions.saying import Heard, Said
from stepwell.definitions.step_info import Attempt
from stepwell.errors import DefinitionError, SerializationError, StepFailed, StepwellError
from stepwell.executors import imported_script, keeper
from stepwell.executors.child_reports import ChildReports
from stepwell.values.codec import Codec
from stepwell.values.failure import failure_from_json, failure_json
from stepwell.values.inspection import items_of, mapping_of

#: What the interpreter of a child executes. `size` is the length of the search path in bytes.
PROGRAM: Final = """\
import os, sys
path = b""
while len(path) < {size}:
    path += os.read({pipe}, {size} - len(path)) or sys.exit()
sys.path[:] = os.fsdecode(path).split(chr(0))
from stepwell.executors.keeper import part
keeper, tether = part({pipe}, {lifeline}, {parent})
from stepwell.executors.child_main import main
main({pipe}, keeper, tether)
"""

# From the parent.
SETUP: Final = 1
CALL: Final = 2
# From the child. LOADED: the step is imported and begins. ENDING: after the answer that follows it takes no more calls;
# TOLD: because it got SIGTERM. The others end a call: with JSON text, with None, with compressed JSON, with an
# exception, with the `SerializationError` of a result that cannot be recorded. STARTED: the process id of the child.
LOADED: Final = 3
ENDING: Final = 4
VALUE: Final = 5
NOTHING: Final = 6
PACKED: Final = 7
FAILED: Final = 8
REFUSED: Final = 9
STARTED: Final = 10
SAID: Final = 11
# From the parent: what was said is recorded, or why it is not, as a failure.
HEARD: Final = 12
# From the child.
PROGRESS: Final = 13

#: How the text begins that `faulthandler` writes; no kind of frame has that number.
CRASH_REPORT: Final = b"F"

#: What ENDING says where a signal told the child to end.
TOLD: Final = b"T"

HEADER_BYTES: Final = 5

#: The exit code of a child that was told to end: what shells show of a process that SIGTERM has killed.
TOLD_TO_END: Final = 128 + signal.SIGTERM
#: See proc_pid_oom_score_adj(5): as if it used so many thousandths of the machine's memory on top.
_OOM_SCORE: Final = 300


class Setup(msgspec.Struct):
    """What a child has to know of its parent. `main_name` or `main_path` says what the parent runs as ``__main__``.

    Arguments and path are as `to_json` makes them.
    """

    argv: list[str]
    main_name: str | None
    main_path: str | None
    max_payload_bytes: int
    compress_above_bytes: int


class Call(msgspec.Struct):
    """An attempt. `module` and `qualname` say where its step is, `name` is its stable name.

    `last` is what an earlier attempt said of how far it was, `arguments` what `Codec.encode_arguments` gives, ``null``
    where there are none.
    """

    module: str
    qualname: str
    name: str
    run_id: str
    operation: int
    attempt: int
    started_at: int
    arguments: msgspec.Raw
    last: Progress | None = None
    wanted: bool = True
    ahead: int = 0
    reports: Any = None  # a `Reports`, made here

    def __str__(self) -> str:
        """Name the result, for messages of the codec."""
        return f"the result of step {self.name!r} in run {self.run_id!r}"


def header(kind: int, length: int) -> bytes:
    """Return what a frame begins with."""
    return kind.to_bytes(1) + length.to_bytes(4)


def to_json(name: str) -> str:
    """Return a name from the operating system, of whatever bytes, as text that JSON can hold."""
    return os.fsencode(name).decode("latin-1")


def from_json(text: str) -> str:
    """Undo `to_json`."""
    return os.fsdecode(text.encode("latin-1"))


_decode_setup = msgspec.json.Decoder(Setup).decode
_decode_call = msgspec.json.Decoder(Call).decode
decode_said = msgspec.msgpack.Decoder(Said).decode
_encode_said = msgspec.msgpack.encode
decode_progress = msgspec.msgpack.Decoder(Progress).decode


class Child:
    """Executes calls in the main thread of this process, until the pipe ends."""

    def __init__(self, pipe: int, keeper_pid: int) -> None:
        self._pipe = pipe
        self._keeper = keeper_pid
        self._list: int | None = None  # kept open, because it is read after each call
        with contextlib.suppress(OSError):  # not Linux, or a kernel without CONFIG_PROC_CHILDREN
            self._list = os.open(f"/proc/{keeper_pid}/task/{keeper_pid}/children", os.O_RDONLY)
        self._call: Call | None = None  # the one under way
        self._task: asyncio.Task[Any] | None = None  # that carries it, where the step is async
        self._ending = False  # set by a signal
        #: Held by whoever waits for a `HEARD`, and for the next call.
        self._asking = threading.Lock()
        #: Held by whoever writes a frame: the steps' threads do, too.
        self._writing = threading.RLock()
        self._reports = ChildReports(lambda progress: self._write(PROGRESS, _encode_said(progress)))
        self._steps: dict[tuple[str, str, str], Step[..., Any]] = {}
        setup = self._read()
        if setup is None:
            raise SystemExit
        self._setup = _decode_setup(setup[1])
        sys.argv[:] = map(from_json, self._setup.argv)
        self._codec = Codec(
            max_payload_bytes=self._setup.max_payload_bytes, compress_above_bytes=self._setup.compress_above_bytes
        )

    def serve(self) -> None:
        """Execute calls until there are no more."""
        self._write(STARTED, str(os.getpid()).encode())
        while (frame := self._read()) is not None:
            self._call = _decode_call(frame[1])
            self._call.reports = Reports(self._call.last)
            del frame  # which may be large
            kind, answer = self._execute(self._call)
            with self._asking:  # a thread that the step has left behind may wait for an answer
                self._call = None
            self._reports.end()
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):  # None, closed, or put in its place by the step
                    stream.flush()
            if self._ending or self._programs_ended():
                self._write(ENDING, TOLD if self._ending else b"")
                self._write(kind, answer)
                return
            self._write(kind, answer)

    def _programs_ended(self) -> bool:
        """End what a step has started and left behind; tell whether there was anything.

        If so this process ends as well: what it still holds of such programs (a pool of processes, say) is broken now.
        The keeper ends what has left this process's tree, and says when all of it is gone.
        """
        mine = os.getpid()
        if not _has_children() and self._keepers_children() == f"{mine} ".encode():
            return False
        helpers = _helpers()
        left = [pid for pid in keeper.living_below(self._keeper) if pid != mine and pid not in helpers]
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return bool(left)

    def _keepers_children(self) -> bytes:
        """Return the list of the keeper's children as the kernel writes it; nothing where it writes none."""
        if self._list is None:
            return b""
        try:
            return os.pread(self._list, 64, 0)
        except OSError:
            return b""

    def told_to_end(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGTERM: cancel an async step where it waits, raise SystemExit in any other."""
        self._ending = True
        call, task = self._call, self._task
        if call is not None:
            call.wanted = False
        if task is None:
            raise SystemExit(TOLD_TO_END)
        task.cancel()
        task.get_loop().call_soon_threadsafe(_nothing)  # so that a loop that waits for events looks at the task

    # --- one call ------------------------------------------------------------------------------------------------

    def _execute(self, call: Call) -> tuple[int, bytes]:
        try:
            definition = self._find(call)
            where = f"the arguments of {call.name!r} in run {call.run_id!r}"
            payload = bytes(call.arguments).decode()
            given = None if payload == "null" else payload
            args, kwargs = self._codec.decode_arguments(given, definition.signature, where)
            result = copy_context().run(self._invoke, call, definition, args, kwargs)
            del args, kwargs
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its attempt's outcome
            if self._ending and isinstance(error, (SystemExit, asyncio.CancelledError)):
                raise SystemExit(TOLD_TO_END) from None
            return FAILED, self._failure(error)
        try:
            refuse_coroutine(result, f"step {call.name!r}", str(call))
            value = definition.encode_result(self._codec, result, call)
        except SerializationError as error:
            return REFUSED, self._failure(error)
        if value is None:
            return NOTHING, b""
        return (PACKED, value) if isinstance(value, bytes) else (VALUE, value.encode())

    def _invoke(self, call: Call, definition: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if definition.is_async:
            return asyncio.run(self._carry(call, definition, args, kwargs))
        return invoke.step(call, definition, args, kwargs, self)

    async def _carry(
        self, call: Call, definition: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._task = asyncio.current_task()
        try:
            return await invoke.step(call, definition, args, kwargs, self)
        finally:
            self._task = None

    def _failure(self, error: BaseException) -> bytes:
        text = failure_json(error)
        if f'"{MAIN_IN_A_CHILD}.' not in text:
            return text.encode()
        record = msgspec.json.decode(text)
        for part in _parts(record):  # for the parent, and for the file, these classes are those of the script
            if part["type"].startswith(f"{MAIN_IN_A_CHILD}."):
                part["type"] = "__main__" + part["type"].removeprefix(MAIN_IN_A_CHILD)
        return msgspec.json.encode(record)

    # --- what a step says --------------------------------------------------------------------------------------------

    is_immediate = False

    @property
    def codec(self) -> Codec:
        """What the values are encoded with; see `stepwell.definitions.saying.Outlet`."""
        return self._codec

    def say(self, attempt: Attempt, number: int, said: Said, heard: Heard) -> None:
        """Have the parent record something, and wait for that: in a thread, where this is called on an event loop."""
        del number
        if _get_running_loop() is None:
            heard(self._told(attempt, said))
        else:
            thread = threading.Thread(target=lambda: heard(self._told(attempt, said)), name="stepwell-said")
            thread.daemon = True
            thread.start()

    def report(self, attempt: Attempt, progress: Progress) -> None:
        """Have the parent told soon how far the step is; from any thread."""
        if attempt.reports is not None:
            attempt.reports.say(progress)
        if self._call is attempt:
            self._reports.say(progress)

    def _told(self, attempt: Attempt, said: Said) -> BaseException | None:
        with self._asking:
            if self._call is not attempt:
                return StepwellError(
                    f"step {attempt.name!r} of run {attempt.run_id!r} has ended, so what it writes is not recorded"
                )
            self._write(SAID, _encode_said(said))
            frame = self._read()
            if frame is None:
                os._exit(TOLD_TO_END)  # the parent is gone
            return failure_from_json(frame[1], StepFailed) if frame[1] else None

    # --- finding the step ----------------------------------------------------------------------------------------

    def _find(self, call: Call) -> Step[..., Any]:
        key = (call.module, call.qualname, call.name)
        definition = self._steps.get(key)
        if definition is None:
            definition = self._steps[key] = self._load(call)
            self._write(LOADED, b"")
        return definition

    def _load(self, call: Call) -> Step[..., Any]:
        try:
            module = self._main() if call.module == "__main__" else importlib.import_module(call.module)
        except Exception as error:
            raise DefinitionError(
                f"step {call.name!r} cannot be isolated, because a child process cannot import {call.module!r}: "
                f"{type(error).__name__}: {error}. Put the step into a module that can be imported by its name"
            ) from error
        holder: Any = module
        found: Any = module
        for part in call.qualname.split("."):
            holder, found = found, getattr(found, part, None)
        # Where the name stands for the plain function, the step made of it is beside it under another name.
        for each in (found, *vars(holder or module).values()):
            candidate = as_definition(each)
            if isinstance(candidate, Step) and candidate.name == call.name:
                return cast("Step[..., Any]", candidate)
        raise DefinitionError(
            f"step {call.name!r} cannot be isolated, because a child process finds no step of that name as "
            f"{call.module}.{call.qualname}. Declare it at the top level of its module, with the same name everywhere; "
            "if the file was changed meanwhile, restart the worker"
        )

    def _main(self) -> ModuleType:
        """Import what the parent runs as ``__main__``, under another name, so that its guard keeps the rest quiet."""
        known = sys.modules.get(MAIN_IN_A_CHILD)
        if known is not None:
            return known
        name, path = self._setup.main_name, self._setup.main_path
        if name == "__main__" or (name or "").endswith(".__main__"):
            raise ImportError(f"it is a {name}, which always runs as a whole")
        if name is None and path is None:
            raise ImportError("it is an interactive session, or code that was passed on the command line")
        with imported_script.importing():
            if name is not None:
                members = runpy.run_module(name, run_name=MAIN_IN_A_CHILD, alter_sys=True)
            else:
                assert path is not None
                members = runpy.run_path(from_json(path), run_name=MAIN_IN_A_CHILD)
        module = ModuleType(MAIN_IN_A_CHILD)
        module.__dict__.update(members)
        sys.modules["__main__"] = sys.modules[MAIN_IN_A_CHILD] = module
        return module

    # --- the pipe ------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[int, bytes] | None:
        """Return the next frame, or None at the end."""
        head = self._read_bytes(HEADER_BYTES)
        if head is None:
            return None
        body = self._read_bytes(int.from_bytes(head[1:]))
        return None if body is None else (head[0], body)

    def _read_bytes(self, count: int) -> bytes | None:
        if not count:
            return b""
        data = os.read(self._pipe, count)
        if len(data) == count:
            return data
        parts = [data]
        left = count - len(data)
        while left:
            data = os.read(self._pipe, left)
            if not data:
                return None
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def _write(self, kind: int, body: bytes) -> None:
        left = memoryview(header(kind, len(body)) + body)
        try:
            with self._writing:
                while left:
                    left = left[os.write(self._pipe, left) :]
        except BrokenPipeError:
            os._exit(TOLD_TO_END)  # nobody waits for an answer any more


def _has_children() -> bool:
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _helpers() -> set[int]:
    """Return the processes that belong to `multiprocessing` rather than to a step; they end when this one does."""
    found: set[int] = set()
    for module, holder, name in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        pid = getattr(getattr(sys.modules.get(module), holder, None), name, None)
        if isinstance(pid, int):
            found.add(pid)
    return found


def _nothing() -> None:
    pass


def _parts(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a recorded failure and all within it that names a class (see `stepwell.values.plain`)."""
    yield record
    for inner in (record.get("cause"), record.get("context"), *record.get("members", ())):
        if inner is not None:
            yield from _parts(inner)
    yield from _tagged([record.get("args"), record.get("init"), record.get("attributes")])


def _tagged(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for item in items_of(value):
            yield from _tagged(item)
    elif isinstance(value, dict):
        mapping = mapping_of(value)
        if mapping.get("$") == "exception":
            yield from _parts(mapping["value"])
            return
        if mapping.get("$") in ("enum", "object"):
            yield mapping
        for item in mapping.values():
            yield from _tagged(item)


def _offer_as_victim() -> None:
    """Have the kernel choose this process rather than the worker when memory runs out."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):
            path = Path("/proc/self/oom_score_adj")
            path.write_text(str(min(1000, int(path.read_text()) + _OOM_SCORE)))


def _end_with(tether: int) -> NoReturn:
    """Wait until the keeper's end of the pipe is closed, and end this process and its group."""
    while os.read(tether, 1):
        pass
    os.killpg(0, signal.SIGKILL)
    os._exit(TOLD_TO_END)


def main(pipe: int, keeper_pid: int, tether: int) -> None:
    """Be the child of a keeper, whose process id is given; the other two are descriptors."""
    _offer_as_victim()
    for descriptor in (pipe, tether):
        os.set_inheritable(descriptor, False)  # processes that steps start must not keep them open
    threading.Thread(target=_end_with, args=(tether,), name="stepwell-tether", daemon=True).start()
    child = Child(pipe, keeper_pid)
    signal.signal(signal.SIGTERM, child.told_to_end)
    faulthandler.enable(pipe, all_threads=False)
    child.serve()
