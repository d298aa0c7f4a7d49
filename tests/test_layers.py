"""Imports go down only. `LAYERS` is the one place where the order stands; ARCHITECTURE.md explains it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

#: From the top down. Names in one line do not import each other. A name stands for all modules below it that have no
#: line of their own, and among those the order is free; only the root package stands for nothing but itself.
LAYERS: list[list[str]] = [
    ["stepwell.__main__"],
    ["stepwell.cli", "stepwell.ui"],
    ["stepwell.testing"],
    ["stepwell"],  # the public names, nothing else
    ["stepwell.async_engine"],
    ["stepwell.async_opening"],
    ["stepwell.engine"],
    ["stepwell.client"],
    ["stepwell.options"],
    ["stepwell.engine_clock", "stepwell.handles", "stepwell.sortable_ids"],
    ["stepwell.why"],
    ["stepwell.core"],
    ["stepwell.lock_watch"],
    ["stepwell.dispatch", "stepwell.machine"],
    ["stepwell.hearing", "stepwell.processes", "stepwell.threads"],
    ["stepwell.spawning"],
    [
        "stepwell.purging",
        "stepwell.congestion",
        "stepwell.purity",
        "stepwell.queue_requests",
        "stepwell.requests",
        "stepwell.retry_requests",
        "stepwell.runner",
        "stepwell.stalls",
        "stepwell.waiting",
        "stepwell.watchdog",
    ],
    ["stepwell.permitted_io", "stepwell.write_turn"],
    ["stepwell.interrupts", "stepwell.worker"],
    ["stepwell.arrivals", "stepwell.loading", "stepwell.settling", "stepwell.spinning"],
    ["stepwell.steps", "stepwell.turns", "stepwell.undoing"],
    ["stepwell.activation"],
    ["stepwell.conflicts", "stepwell.unrecorded"],
    ["stepwell.runs"],
    ["stepwell.batch", "stepwell.memory", "stepwell.parked", "stepwell.permits"],
    ["stepwell.stuck", "stepwell.child_ids", "stepwell.reasons", "stepwell.work", "stepwell.queues"],
    ["stepwell.store.sqlite"],
    ["stepwell.store"],
    ["stepwell.resident"],
    ["stepwell.sync"],
    ["stepwell.operations"],
    ["stepwell.execution"],
    ["stepwell.advice", "stepwell.code_errors", "stepwell.divergence"],
    ["stepwell.calls", "stepwell.child"],
    ["stepwell.loop"],
    ["stepwell.loop_thread"],
    ["stepwell.anyio_support", "stepwell.loop_methods", "stepwell.tasks"],
    ["stepwell.closing", "stepwell.isolation"],
    ["stepwell.stable_order", "stepwell.whereabouts"],
    ["stepwell.generators", "stepwell.greenlets"],
    ["stepwell.failure_log"],
    ["stepwell.attempts"],
    ["stepwell.blocking", "stepwell.code_identity"],
    ["stepwell.definition"],
    ["stepwell.namesakes"],
    ["stepwell.durable", "stepwell.flow"],
    ["stepwell.callables", "stepwell.collector", "stepwell.names"],
    ["stepwell.failure_info"],
    ["stepwell.failure"],
    ["stepwell.codec"],
    ["stepwell.added_fields", "stepwell.converter"],
    ["stepwell.payload"],
    ["stepwell.differences", "stepwell.exactness", "stepwell.lost_fields"],
    ["stepwell.comparison", "stepwell.fingerprint"],
    ["stepwell.decoders", "stepwell.large_values", "stepwell.plain", "stepwell.signature"],
    ["stepwell.shapes"],
    ["stepwell.model"],
    ["stepwell.journal", "stepwell.lifecycle"],
    ["stepwell.context"],
    ["stepwell.clock", "stepwell.waits"],
    ["stepwell.audit_hook", "stepwell.pace", "stepwell.retry", "stepwell.steady"],
    ["stepwell.errors", "stepwell.keeper", "stepwell.own_tables", "stepwell.package"],
]

#: The pure part, and what it must not import: the clock, the operating system, threads, a store that exists.
PURE = [
    "stepwell.code_identity",
    "stepwell.unrecorded",
    "stepwell.activation",
    "stepwell.advice",
    "stepwell.arrivals",
    "stepwell.attempts",
    "stepwell.batch",
    "stepwell.calls",
    "stepwell.code_errors",
    "stepwell.divergence",
    "stepwell.execution",
    "stepwell.failure_log",
    "stepwell.greenlets",
    "stepwell.hearing",
    "stepwell.isolation",
    "stepwell.loading",
    "stepwell.loop",
    "stepwell.machine",
    "stepwell.memory",
    "stepwell.pace",
    "stepwell.parked",
    "stepwell.permits",
    "stepwell.queue_requests",
    "stepwell.queues",
    "stepwell.reasons",
    "stepwell.requests",
    "stepwell.resident",
    "stepwell.retry_requests",
    "stepwell.settling",
    "stepwell.spinning",
    "stepwell.steps",
    "stepwell.tasks",
    "stepwell.waiting",
    "stepwell.waits",
    "stepwell.turns",
    "stepwell.undoing",
    "stepwell.whereabouts",
    "stepwell.why",
    "stepwell.work",
    "stepwell.worker",
]
IMPURE = ["time", "os", "threading", "socket", "subprocess", "secrets", "apsw", "sqlite3", "stepwell.store.sqlite"]


def modules(source: Path) -> dict[str, Path]:
    """Return every module below `source` by its dotted name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def layer_of(module: str, layers: list[list[str]]) -> tuple[int, str] | None:
    """Return the height of the module's layer (0 is the top) and the name in it that stands for the module."""
    height = {name: index for index, names in enumerate(layers) for name in names}
    name = module
    while name:
        # The root package stands for itself only: a module of no layer shall be noticed.
        if name in height and (name == module or "." in name):
            return height[name], name
        name = name.rpartition(".")[0]
    return None


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Yield the modules that a file imports, wherever in it, with the line."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in known else base, node.lineno


def chance(path: Path) -> Iterator[tuple[str, int]]:
    """Yield what a file takes from the module `random`, but for ``random.Random(seed)``, which is no chance."""
    tree = ast.parse(path.read_bytes())
    seeded = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "random.Random" and node.args
    }
    annotations = {
        id(part)
        for node in ast.walk(tree)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if annotation is not None
        for part in ast.walk(annotation)
    }
    exempt = seeded | annotations
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield "random", node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random" and id(node) not in exempt:
            yield ast.unparse(node), node.lineno


def violations(source: Path, layers: list[list[str]], pure: list[str], impure: list[str]) -> list[str]:
    """Return every breach of the order, as ``file:line: what is wrong``."""
    known = modules(source)
    found = []
    for module, path in known.items():
        place = path.relative_to(source.parent)
        own = layer_of(module, layers)
        if own is None:
            found.append(f"{place}:1: {module} is in no layer; give it a place in LAYERS of tests/test_layers.py")
            continue
        if module in pure:
            found += [f"{place}:{line}: {module} is pure and must not use {name}" for name, line in chance(path)]
        for imported, line in sorted(set(imports(module, path, known)), key=lambda found: found[1]):
            if module in pure and any(imported == name or imported.startswith(f"{name}.") for name in impure):
                found.append(f"{place}:{line}: {module} is pure and must not import {imported}")
            other = layer_of(imported, layers) if imported in known else None
            if other is not None and other[1] != own[1] and other[0] <= own[0]:
                found.append(f"{place}:{line}: {module} must not import {imported}, which is not below it")
    return found


def test_imports_go_down_only_and_the_pure_modules_stay_pure() -> None:
    found = violations(SOURCE, LAYERS, PURE, IMPURE)
    assert not found, "\n" + "\n".join(found)


def test_each_name_stands_in_one_layer_only() -> None:
    names = [name for layer in LAYERS for name in layer]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pkg/low.py": "import pkg.high"}, "src/pkg/low.py:1: pkg.low must not import pkg.high"),
        ({"pkg/low.py": "\nfrom pkg import high"}, "src/pkg/low.py:2: pkg.low must not import pkg.high"),
        ({"pkg/low.py": "def f():\n    from .high import x"}, "src/pkg/low.py:2: pkg.low must not import pkg.high"),
        ({"pkg/low.py": "import pkg.twin", "pkg/twin.py": ""}, "src/pkg/low.py:1: pkg.low must not import pkg.twin"),
        ({"pkg/low.py": "from pkg import name"}, "src/pkg/low.py:1: pkg.low must not import pkg,"),
        ({"pkg/low.py": "", "pkg/stray.py": ""}, "src/pkg/stray.py:1: pkg.stray is in no layer"),
        ({"pkg/high.py": "import os.path"}, "src/pkg/high.py:1: pkg.high is pure and must not import os.path"),
        (
            {"pkg/high.py": "import random\nrandom.Random(1)\nrandom.Random()"},
            "src/pkg/high.py:3: pkg.high is pure and",
        ),
        (
            {"pkg/deep/__init__.py": "from .. import high"},
            "src/pkg/deep/__init__.py:1: pkg.deep must not import pkg.high",
        ),
    ],
)
def test_each_kind_of_breach_is_found(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for name, text in {
        "pkg/__init__.py": "",
        "pkg/high.py": "",
        "pkg/deep/leaf.py": "import pkg.deep",
        **files,
    }.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    layers = [["pkg"], ["pkg.high"], ["pkg.low", "pkg.twin"], ["pkg.deep"]]
    found = violations(tmp_path / "src", layers, ["pkg.high"], ["os"])
    assert len(found) == 1
    assert found[0].startswith(expected)
