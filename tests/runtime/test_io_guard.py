"""Workflow code that changes or reads the outside world is refused before it does; Python's own machinery is not."""

from __future__ import annotations

import fcntl
import importlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell import Engine, WorkflowIOError, workflow
from stepwell.testing import TestEngine

#: What reads or changes the file system: each is an event of Python's audit hook. `file` exists and has three letters,
#: `folder` exists and has one file in it, `new` does not exist, and all are in one folder.
DEEDS = """
os.remove(file)
os.unlink(file)
os.rename(file, new)
os.replace(file, new)
os.renames(file, new / "deep")
os.link(file, new)
os.symlink(file, new)
os.mkdir(new)
os.makedirs(new / "deep")
os.rmdir(folder)
os.removedirs(folder)
os.truncate(file, 0)
os.chmod(file, 0o600)
os.chown(file, -1, -1)
os.lchown(file, -1, -1)
os.utime(file, (0, 0))
os.open(new, os.O_CREAT | os.O_WRONLY)
os.listdir(folder)
os.scandir(folder)
list(os.walk(folder))
list(os.fwalk(folder))
os.chdir(folder)
os.system(f"rm {file}")
os.popen(f"rm {file}")
os.posix_spawn("/bin/rm", ["rm", str(file)], {})
shutil.rmtree(folder)
shutil.move(file, new)
shutil.copy(file, new)
shutil.copy2(file, new)
shutil.copyfile(file, new)
shutil.copymode(file, folder)
shutil.copystat(file, folder)
shutil.copytree(folder, new)
shutil.chown(file, os.getuid())
shutil.make_archive(str(new), "tar", folder)
shutil.unpack_archive(file, new, "tar")
file.unlink()
file.rename(new)
file.replace(new)
folder.rmdir()
new.mkdir()
new.touch()
new.write_text("x")
file.write_bytes(b"")
file.read_text()
file.chmod(0o600)
new.symlink_to(file)
new.hardlink_to(file)
list(folder.iterdir())
list(folder.glob("*"))
list(folder.rglob("*"))
glob.glob(str(folder / "*"))
open(new, "w")
io.open(file, "a")
io.FileIO(new, "w")
codecs.open(str(new), "w", "utf-8")
tempfile.mkstemp(dir=folder)
tempfile.mkdtemp(dir=folder)
tempfile.TemporaryFile(dir=folder)
tempfile.TemporaryDirectory(dir=folder)
""".strip().splitlines()
if sys.platform == "linux":
    DEEDS += ['os.setxattr(file, "user.x", b"1")', "os.listxattr(file)", 'os.removexattr(file, "user.x")']
if sys.version_info >= (3, 12):
    DEEDS += ["list(folder.walk())"]


MODULES = ("codecs", "glob", "io", "os", "shutil", "tempfile")


def state(folder: Path) -> list[tuple[object, ...]]:
    """Return what a change below `folder` would change."""
    found: list[tuple[object, ...]] = []
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        found.append((path.name, facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ino, facts.st_nlink))
    return found


@pytest.mark.parametrize("deed", DEEDS)
def test_what_touches_the_file_system_is_refused_before_it_does(engine: TestEngine, tmp_path: Path, deed: str) -> None:
    place = tmp_path / "place"
    file, folder, new = place / "file", place / "folder", place / "new"
    folder.mkdir(parents=True)
    file.write_text("abc")
    (folder / "inside").write_text("def")
    names: dict[str, object] = {name: importlib.import_module(name) for name in MODULES}
    names |= {"file": file, "folder": folder, "new": new}
    before, where = state(place), Path.cwd()

    @workflow
    async def reaches() -> None:
        eval(deed, names)

    run = engine.start(reaches, id="run-3")
    with pytest.raises(WorkflowIOError, match=r"run-3.* at .*:\d+ in .*@step"):
        run.result(60)
    assert state(place) == before
    assert Path.cwd() == where


def test_locks_of_files_are_refused(engine: TestEngine, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as opened:

        @workflow
        async def reaches() -> list[str]:
            refused: list[str] = []
            for how in (fcntl.flock, fcntl.lockf, lambda file, _: os.lockf(file.fileno(), os.F_TEST, 0)):
                try:
                    how(opened, fcntl.LOCK_EX)
                except WorkflowIOError as error:
                    refused.append(str(error).split("(")[1].split()[0])
            return refused

        assert engine.start(reaches).result(60) == ["fcntl.flock", "fcntl.lockf", "os.lockf"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: socket.gethostbyaddr("127.0.0.1"),
        lambda: socket.gethostbyname("localhost"),
        lambda: socket.getnameinfo(("127.0.0.1", 80), 0),
        input,
    ],
    ids=["gethostbyaddr", "gethostbyname", "getnameinfo", "input"],
)
def test_questions_to_the_outside_are_refused(engine: TestEngine, ask: Callable[[], object]) -> None:
    @workflow
    def asks() -> None:
        ask()

    with pytest.raises(WorkflowIOError, match="@step"):
        engine.start(asks).result(60)


#: Of what is not refused in workflow code each is executed in a run of its own, in a process where it is the first use.
FIRST_USES = """
from zoneinfo import ZoneInfo; ZoneInfo("Europe/Berlin")
import zoneinfo; zoneinfo.ZoneInfo.no_cache("Asia/Tokyo"); assert "UTC" in zoneinfo.available_timezones()
import decimal; decimal.Decimal("0.1") + 1
import statistics, fractions, calendar, difflib, csv, configparser, colorsys
import xml.dom.minidom, xml.etree.ElementTree, html.parser, email.message, email.mime.text
import http.client, urllib.request, ssl, smtplib, sqlite3
import concurrent.futures.process, multiprocessing, subprocess, tempfile, shutil
import unittest.mock, doctest, pdb, cProfile, pydoc
import asyncio.subprocess, asyncio.runners
import anyio, hypothesis, msgspec.yaml
"ä".encode("cp1252"); "ä".encode("idna"); "ä".encode("utf-7"); "ä".encode("mac-roman")
import locale; locale.getlocale(); locale.localeconv()
import gettext; gettext.translation("nothing", fallback=True)
import mimetypes; assert mimetypes.guess_type("a.html")[0] == "text/html"
import time; time.strptime("2024-01-02", "%Y-%m-%d")
import re; re.compile("(?i)x+").sub("y", "xx")
import importlib.metadata; importlib.metadata.version("msgspec")
import importlib.resources; importlib.resources.read_text("email", "architecture.rst")
import importlib.resources; (importlib.resources.files("email") / "architecture.rst").read_text()
import importlib.resources; assert len([*importlib.resources.files("email").iterdir()]) > 5
import traceback; traceback.format_stack(); traceback.format_exception(ValueError("x"))
import linecache, tokenize, json.decoder; assert linecache.getline(json.decoder.__file__, 1)
import inspect, textwrap; inspect.getsource(textwrap.dedent)
import warnings; warnings.warn("from a workflow")
import logging; logging.getLogger("late").error("x", exc_info=ValueError("x"))
import logging, os; logging.getLogger("lazy").addHandler(logging.FileHandler("lazy.log", delay=True))
import logging; logging.getLogger("lazy").error("x")
from logging.handlers import RotatingFileHandler as H; l.addHandler(H("rolls.log", "a", 1, 2, delay=True))
[l.error("x" * 50) for _ in range(4)]
import a_module_of_its_own; assert a_module_of_its_own.read == "data"
""".strip().splitlines()

PROGRAM = """
import sys, traceback, logging
from stepwell import Engine, workflow
sys.path.insert(0, "modules")

@workflow
def uses(source: str) -> None:
    exec(source, {"l": logging.getLogger("rolls")})

wrong = 0
with Engine("uses.db") as engine:
    for source in sys.stdin.read().splitlines():
        try:
            engine.start(uses, source).result(timeout=60)
        except Exception:
            wrong += 1
            print(source)
            traceback.print_exc(file=sys.stdout)
sys.exit(wrong)
"""


def test_imports_and_first_uses_of_pythons_own_machinery_are_not_refused(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "data.txt").write_text("data")
    (tmp_path / "modules" / "a_module_of_its_own.py").write_text(
        "import pathlib, subprocess, threading, time\n"
        "read = (pathlib.Path(__file__).parent / 'data.txt').read_text()\n"
        "threading.Thread(target=time.sleep, args=(0,)).start()\n"
    )
    (tmp_path / "uses.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "uses.py"],
        cwd=tmp_path, input="\n".join(FIRST_USES), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "lazy.log").exists()
    assert (tmp_path / "rolls.log.2").exists()


@pytest.mark.parametrize(
    "name", ["linecache.py", "inspect.py", "logging/handlers.py", "importlib/reader.py", "mypdb.py"]
)
def test_own_modules_are_not_taken_for_those_of_python_by_their_names(
    engine: TestEngine, tmp_path: Path, name: str
) -> None:
    source = tmp_path / "app" / name
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("import os\ndef read():\n    return open(os.devnull).read()\n")
    names: dict[str, Any] = {}
    exec(compile(source.read_text(), str(source), "exec"), names)

    @workflow
    async def reads() -> str:
        return str(names["read"]())

    with pytest.raises(WorkflowIOError, match=f"{name}:3 in read"):
        engine.start(reads).result(60)


def test_a_file_that_is_installed_is_not_for_workflow_code_to_open(engine: TestEngine) -> None:
    @workflow
    def reads() -> str:
        with open(os.__file__) as source:
            return source.read()

    with pytest.raises(WorkflowIOError, match="@step"):
        engine.start(reads).result(60)


# --- debugging --------------------------------------------------------------------------------------------------------

DEBUGGED = """
import asyncio, faulthandler, sys
from stepwell import Engine, step, workflow
faulthandler.dump_traceback_later(50, exit=True)

@step
def half() -> int:
    return 21

@workflow
async def in_async() -> int:
    await asyncio.sleep(0)
    breakpoint()
    return 2 * half()

@workflow
def in_plain() -> int:
    value = half()
    breakpoint()
    return 2 * value

with Engine("debugged.db") as engine:
    for each in (in_async, in_plain):
        print("RESULT", engine.start(each).result(timeout=40))
"""


@pytest.mark.parametrize("settings", ["", "alias shout p 'from the settings'\n"], ids=["plain", "pdbrc"])
def test_a_breakpoint_in_workflow_code_stops_there_and_goes_on(tmp_path: Path, settings: str) -> None:
    if settings:
        (tmp_path / ".pdbrc").write_text(settings)
    (tmp_path / "debugged.py").write_text(textwrap.dedent(DEBUGGED))
    done = subprocess.run(
        [sys.executable, "debugged.py"],
        cwd=tmp_path, input="p 'in ' + 'the body'\nlist\nwhere\nn\np len(open('debugged.py').read()) > 9\nc\n" * 2,
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.count("'in the body'") == 2, done.stdout + done.stderr
    assert "return 2 * half()" in done.stdout
    assert done.stdout.count("True") == 2
    assert done.stdout.count("RESULT 42") == 2, done.stdout + done.stderr


def test_a_breakpoint_without_a_terminal_ends_in_an_error_and_not_in_a_hang(tmp_path: Path) -> None:
    (tmp_path / "debugged.py").write_text(textwrap.dedent(DEBUGGED))
    done = subprocess.run(
        [sys.executable, "debugged.py"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "BdbQuit" in done.stderr
    assert "Timeout" not in done.stderr


def test_a_library_may_read_what_is_installed_with_it(tmp_path: Path) -> None:
    library = tmp_path / "site-packages" / "tables"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text(
        "import os, pathlib\n"
        "def late():\n"
        "    with open(os.path.join(os.path.dirname(__file__), 'table.txt')) as table: return table.read()\n"
        "def later(): return (pathlib.Path(__file__).parent / 'table.txt').read_text()\n"
        "def write(): open(os.path.join(os.path.dirname(__file__), 'table.txt'), 'a')\n"
        "def outside(): open(os.devnull)\n"
    )
    (library / "table.txt").write_text("rows")
    names: dict[str, Any] = {"__file__": str(library / "__init__.py")}
    exec(compile((library / "__init__.py").read_text(), str(library / "__init__.py"), "exec"), names)

    @workflow
    async def asks(name: str) -> Any:
        return names[name]()

    with Engine(tmp_path / "x.db") as engine:
        assert engine.start(asks, "late").result(60) == "rows"
        assert engine.start(asks, "later").result(60) == "rows"
        for name in ("write", "outside"):
            with pytest.raises(WorkflowIOError, match="@step"):
                engine.start(asks, name).result(60)
