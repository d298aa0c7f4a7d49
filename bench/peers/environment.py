"""Where peers are installed: each on demand into an environment of its own, never the project's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_ENVIRONMENTS = Path(__file__).parents[2] / ".venvs"

#: Newer than the one that measures, where a peer asks for it.
_CANDIDATES = ("python3.13", "python3.14")


@dataclass(frozen=True, slots=True)
class Environment:
    """A peer that is installed: its interpreter, its version, and how it has SQLite write."""

    python: str
    version: str
    settings: str


def install(
    name: str, requirement: str, say: Callable[[str], None], *, settings: str = "", newer: bool = False
) -> Environment:
    """Make the environment of the peer `name` where it is missing.

    `settings` is an expression that reads the peer's pragmas, with `folder` for a place to put a file; it is evaluated
    there. With `newer` the peer needs Python 3.13. Raises `RuntimeError` where there is none.
    """
    folder = _ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        say(f"Installing {requirement} into {folder}")
        base = _newer() if newer else sys.executable
        if base is None:
            raise RuntimeError(f"{name} needs Python 3.13 or later; put one on PATH, or below pyenv")
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        # apsw is for the baseline, which is measured in turns with the peer in the same process.
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement, "apsw"]
        subprocess.run(pip, check=True)
        (folder / ".installed").touch()
    distribution = requirement.partition("[")[0]
    version = _evaluate(python, f"__import__('importlib.metadata').metadata.version({distribution!r})")
    return Environment(str(python), version, _evaluate(python, settings) if settings else "")


def _newer() -> str | None:
    if sys.version_info >= (3, 13):
        return sys.executable
    on_path = [found for name in _CANDIDATES if (found := shutil.which(name))]
    built = (Path.home() / ".pyenv" / "versions").glob("3.1[3-9].*/bin/python")
    return next(filter(_works, [*on_path, *map(str, sorted(built, reverse=True))]), None)


def _works(python: str) -> bool:
    """Tell whether it is an interpreter: pyenv puts scripts on PATH for those that are not chosen, too."""
    return subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0


def _evaluate(python: Path, expression: str) -> str:
    program = f"import tempfile\nwith tempfile.TemporaryDirectory() as folder:\n    print({expression})"
    done = subprocess.run([str(python), "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.strip()
