"""Where the tests come from: CPython's from the interpreter, anyio's from its source distribution."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

#: The files of anyio's `tests` folder that test what workflow code uses of anyio.
ANYIO_FILES: Final = (
    "test_taskgroups.py",
    "test_synchronization.py",
    "test_futures.py",
    "streams/test_memory.py",
)
#: Where fetched source distributions stay, so that a second run finds them.
CACHE: Final = Path(__file__).with_name(".cache")


class SuiteMissingError(Exception):
    """Tests could not be found; says what to do."""


def versions() -> dict[str, str]:
    """Return whose tests are run: names and versions."""
    return {"CPython": platform.python_version(), "anyio": version("anyio")}


def check_cpython() -> None:
    """Raise `SuiteMissingError` where the interpreter was installed without its tests."""
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None:
        raise SuiteMissingError(
            f"{sys.executable} comes without CPython's tests (the package `test.test_asyncio`). Install them (on "
            "Debian and Ubuntu: apt-get install libpython3-testsuite), or make the environment with another Python"
        )


def anyio_tests() -> Path:
    """Return the folder that holds anyio's `tests` package, of the version that is installed; fetch it where needed."""
    name = f"anyio-{version('anyio')}"
    folder = CACHE / name
    if not (folder / "tests").is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as workplace:
            _unpack(_fetched(name.replace("-", "=="), Path(workplace)), Path(workplace))
            shutil.rmtree(folder, ignore_errors=True)
            (Path(workplace) / name).rename(folder)
    return folder


def _fetched(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "anyio", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("anyio-*.tar.gz"))
    if result.returncode or not found:
        raise SuiteMissingError(f"the source distribution of {requirement} could not be fetched:\n{result.stderr}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
