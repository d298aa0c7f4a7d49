"""What is learnt from Python source files, and how it adds up.

Nothing here knows of workflows. All values are plain dataclasses, so that they can be steps' arguments and results.
A file that cannot be read or parsed still yields `FileFacts`, with the reason in `problem`: nothing is left out.
"""

from __future__ import annotations

import ast
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Some releases of CPython, 3.11.7 for one, count the depth of all parsers of a process in one place, so that two
#: threads that parse at the same time can end in a SystemError (CPython issue 106905). Under the GIL, taking turns
#: costs nothing.
_parser = threading.Lock()

#: How many entries the lists of a report have.
TOP = 10


@dataclass(frozen=True, slots=True)
class Package:
    """A directory and the ``.py`` files directly in it, by paths relative to `root`, sorted."""

    root: str
    name: str
    files: list[str]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to index: `path` is relative to `root`."""

    root: str
    path: str


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one file holds. `imports` are the top-level modules that it imports by absolute name, sorted, each once."""

    path: str
    size_bytes: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    import_statements: int = 0
    imports: list[str] = field(default_factory=list[str])
    sha256: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ModuleSize:
    """A line of the list of the largest modules."""

    path: str
    lines: int
    definitions: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or directory that could not be read, listed or parsed, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A source tree: its packages, and what of it could not be listed."""

    packages: list[Package]
    problems: list[Problem] = field(default_factory=list[Problem])

    def count(self) -> int:
        """Return the number of files."""
        return sum(len(package.files) for package in self.packages)


@dataclass(frozen=True, slots=True)
class Report:
    """Totals over files. `sha256` covers the path and content of every file; `imports` counts importing files."""

    files: int = 0
    size_bytes: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    import_statements: int = 0
    largest: list[ModuleSize] = field(default_factory=list[ModuleSize])
    imports: dict[str, int] = field(default_factory=dict[str, int])
    problems: list[Problem] = field(default_factory=list[Problem])
    sha256: str = ""

    def most_imported(self) -> list[tuple[str, int]]:
        """Return the modules that most files import, with the number of those files."""
        return sorted(self.imports.items(), key=lambda item: (-item[1], item[0]))[:TOP]


def find_packages(root: Path, without: Iterable[str] = ()) -> Listing:
    """Return every directory below `root` that holds ``.py`` files, sorted; `without` names directories to leave out.

    Links to directories are not followed, as they may lead round in circles; those, and directories that cannot be
    read, are listed as problems. A name that is not UTF-8 is written with escapes; such a file is listed, cannot be
    found by that name, and so becomes a problem when it is analysed.
    """
    left_out = frozenset(without)
    packages: list[Package] = []
    problems: list[Problem] = []

    def unreadable(error: OSError) -> None:
        problems.append(Problem(_relative(Path(error.filename), root), f"cannot be read: {error.strerror}"))

    for place, subdirectories, names in os.walk(root, onerror=unreadable):
        directory = Path(place)
        subdirectories[:] = sorted(name for name in subdirectories if name not in left_out)
        problems += [
            Problem(_relative(directory / name, root), "is a link to a directory; not followed")
            for name in subdirectories
            if (directory / name).is_symlink()
        ]
        files = sorted(_relative(directory / name, root) for name in names if name.endswith(".py"))
        if files:
            packages.append(Package(str(root), _relative(directory, root).replace(os.sep, "."), files))
    return Listing(packages, problems)


def analyse(source: SourceFile) -> FileFacts:
    """Read and parse one file; whatever is wrong with it becomes `FileFacts.problem`."""
    try:
        content = (Path(source.root) / source.path).read_bytes()
    except OSError as error:
        return FileFacts(source.path, problem=f"cannot be read: {error.strerror or type(error).__name__}")
    size_bytes, lines, sha256 = len(content), len(content.splitlines()), hashlib.sha256(content).hexdigest()
    try:
        with _parser:
            tree = ast.parse(content, filename=source.path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        return FileFacts(source.path, size_bytes, lines, sha256=sha256, problem=f"cannot be parsed: {reason}")
    functions = classes = import_statements = 0
    imports: set[str] = set()
    for statement in _statements(tree):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
            case ast.ClassDef():
                classes += 1
            case ast.Import(names=names):
                import_statements += 1
                imports.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=module, level=level):
                import_statements += 1
                if level == 0 and module:
                    imports.add(module.partition(".")[0])
            case _:
                pass
    return FileFacts(source.path, size_bytes, lines, functions, classes, import_statements, sorted(imports), sha256)


def summarise(facts: Iterable[FileFacts]) -> Report:
    """Return the report on single files."""
    return merge(
        Report(
            files=1,
            size_bytes=fact.size_bytes,
            lines=fact.lines,
            functions=fact.functions,
            classes=fact.classes,
            import_statements=fact.import_statements,
            largest=[ModuleSize(fact.path, fact.lines, fact.functions + fact.classes)],
            imports=dict.fromkeys(fact.imports, 1),
            problems=[Problem(fact.path, fact.problem)] if fact.problem else [],
            sha256=hashlib.sha256(f"{fact.path}\0{fact.sha256}".encode()).hexdigest(),
        )
        for fact in facts
    )


def merge(reports: Iterable[Report]) -> Report:
    """Add reports up, in their order: the same reports in another order have another `sha256`."""
    parts = list(reports)
    imports: Counter[str] = Counter()
    digest = hashlib.sha256()
    for part in parts:
        imports.update(part.imports)
        digest.update(part.sha256.encode())
    return Report(
        files=sum(part.files for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        lines=sum(part.lines for part in parts),
        functions=sum(part.functions for part in parts),
        classes=sum(part.classes for part in parts),
        import_statements=sum(part.import_statements for part in parts),
        largest=sorted((module for part in parts for module in part.largest), key=lambda m: (-m.lines, m.path))[:TOP],
        imports=dict(sorted(imports.items())),
        problems=[problem for part in parts for problem in part.problems],
        sha256=digest.hexdigest(),
    )


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield every statement of a module, at any depth; expressions, most of a tree, cannot hold one."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.stmt):
            yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, block, None)
            if isinstance(children, list):
                stack.extend(children)


def _relative(path: Path, root: Path) -> str:
    """Return the path below `root` as text that UTF-8 can hold, whatever the file system allowed."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
