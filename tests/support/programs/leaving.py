"""Isolated steps that start programs of all kinds: `leaving.py FILE FOLDER KIND END` runs one as a worker would.

Each program writes its process id to a file of its kind's name in FOLDER, and then waits for ever. END is how the step
ends: see `END`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stepwell import Engine, step, workflow

#: What a program does before it writes its process id.
KINDS: dict[str, str] = {
    "plain": "",
    "of a session of its own": "os.setsid()",
    "of a group of its own": "os.setpgid(0, 0)",
    "a daemon": "os.setsid()\nif os.fork(): os._exit(0)\nif os.fork(): os._exit(0)",
    "deaf to SIGTERM": "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)",
    "that starts others": "os.setsid()\nif not os.fork(): os.setsid(); name += ' below'",
    "that is stopped": "",
}
#: After which it has written it.
AFTER: dict[str, str] = {"that is stopped": "os.kill(os.getpid(), signal.SIGSTOP)"}

_CODE = """
import os, signal, sys
folder, name = sys.argv[1:]
{before}
with open(f"{{folder}}/{{name}}.new", "w") as file: file.write(str(os.getpid()))
os.rename(f"{{folder}}/{{name}}.new", f"{{folder}}/{{name}}")
{after}
while True: signal.pause()
"""


def start(folder: str, kind: str) -> None:
    """Start a program and wait until it has said who it is."""
    code = _CODE.format(before=KINDS[kind], after=AFTER.get(kind, ""))
    subprocess.Popen([sys.executable, "-S", "-c", code, folder, kind], close_fds=kind != "plain")
    for name in (kind, f"{kind} below") if kind == "that starts others" else (kind,):
        while not Path(folder, name).exists():
            time.sleep(0.001)


@step(isolate="process")
def starts(folder: str, kind: str, end: str) -> str:
    """Start a program and end as `end` says."""
    start(folder, kind)
    match end:
        case "returns":
            return "left it alone"
        case "raises":
            raise ValueError("left it alone")
        case "exits":
            os._exit(5)
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            Path(folder, "waits").touch()
            time.sleep(120)
    return "never"


@step(isolate="process")
def forks(folder: str) -> str:
    """Leave a copy of the child itself behind, which holds all descriptors of it."""
    if os.fork() == 0:
        os.setsid()
        Path(folder, "copy.new").write_text(str(os.getpid()))
        Path(folder, "copy.new").rename(Path(folder, "copy"))
        time.sleep(120)
        os._exit(0)
    while not Path(folder, "copy").exists():
        time.sleep(0.001)
    return "left a copy"


@step(isolate="process")
def waits_for_its_program() -> int:
    """Start a program and wait for it, as a step should."""
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    return os.getpid()


@step(isolate="process")
def shares_memory() -> int:
    """Use what starts a helper process of `multiprocessing`, which goes on."""
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=8)
    memory.close()
    memory.unlink()
    return os.getpid()


@workflow
def runs(folder: str, kind: str, end: str) -> str:
    return starts(folder, kind, end)


if __name__ == "__main__":
    with Engine(sys.argv[1]) as engine:
        engine.start(runs, sys.argv[2], sys.argv[3], sys.argv[4], id="run").result(120)
