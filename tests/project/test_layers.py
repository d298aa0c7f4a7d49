"""Imports go down only. `LAYERS` and `INSIDE` are the one place where the order stands; ARCHITECTURE.md explains it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
HERE = "tests/project/test_layers.py"

#: From the top down, one row a package. Names in one row do not import each other.
LAYERS: list[list[str]] = [
    ["stepwell.__main__"],
    ["stepwell.cli"],
    ["stepwell.ui"],
    ["stepwell.testing"],
    ["stepwell"],  # the public names, nothing else
    ["stepwell.api"],
    ["stepwell.runtime"],
    ["stepwell.executors"],
    ["stepwell.sync"],
    ["stepwell.operations"],
    ["stepwell.worker"],
    ["stepwell.store"],
    ["stepwell.replay"],
    ["stepwell.definitions"],
    ["stepwell.values"],
    ["stepwell.model"],
    ["stepwell.audit_hook"],
    ["stepwell.errors", "stepwell.importing", "stepwell.package"],
    ["stepwell.shown"],
]

#: The order inside a package, and inside its rooms, from the top down; a name stands for everything below it. Packages
#: and rooms that are not here are free inside.
INSIDE: dict[str, list[list[str]]] = {
    "stepwell.api": [
        ["face"],
        ["async_engine", "restore"],
        ["awaited", "engine"],
        ["blocking"],
        ["archive", "promises"],
        ["doctor", "session"],
        ["check", "reading", "repairs"],
        ["asking", "backup", "engine_clock", "enlisted", "one_block"],
    ],
    "stepwell.api.asking": [
        ["schedule_factory"],
        ["request_factory"],
        ["options", "repair_requests"],
        ["acts", "filters", "listing_options", "schedule_options", "sortable_ids", "start_plan"],
    ],
    "stepwell.api.awaited": [
        ["async_handles"],
        ["async_streaming", "async_talking"],
        ["loop_caller"],
        ["async_opening", "async_repairs", "async_schedules"],
    ],
    "stepwell.api.blocking": [
        ["schedules"],
        ["handles"],
        ["streaming", "talking"],
        ["caller"],
    ],
    "stepwell.api.reading": [
        ["failure_path", "file_reads"],
        ["read_service"],
        ["code_requests", "talk_reads"],
        ["bulk", "overview", "time_travel"],
        ["views", "why"],
        ["chapters", "outline", "progress_views", "promise_views", "querying", "reasons", "schedule_views", "streams"],
    ],
    "stepwell.runtime": [
        ["engine_thread"],
        ["in_line"],
        ["light_turns", "lock_watch"],
        ["turn", "wake_ups"],
        ["io_guard", "notifications", "own_loop", "refusals", "retention", "step_outlet"],
        [
            "driver",
            "held_signals",
            "other_workers",
            "permitted_io",
            "recent_times",
            "recorded",
            "serving",
            "stalls",
            "time_bound",
            "tokens",
            "watchdog",
        ],
    ],
    "stepwell.runtime.serving": [
        ["request_gate"],
        ["bulk_requests", "rewind_requests", "settle_requests"],
        ["archiving", "purging", "retry_requests", "update_requests"],
        [
            "fork_requests",
            "pause_requests",
            "promise_requests",
            "queue_requests",
            "run_requests",
            "stream_requests",
            "waiters",
            "write_turn",
        ],
        ["requests"],
        ["schedule_requests"],
    ],
    "stepwell.executors": [
        ["dispatch"],
        ["process_pool"],
        ["child_process", "process_ends", "threads"],
        ["child_main", "runner"],
        ["child_reports", "time_limits", "congestion", "imported_script", "interrupts", "keeper"],
    ],
    "stepwell.operations": [
        ["table"],
        ["patch_names"],
        ["schedule"],
        ["child"],
        ["other_run", "receive", "start_messages"],
        [
            "context",
            "continue_as_new",
            "derived",
            "handlers",
            "describe",
            "map",
            "patch",
            "poll",
            "promise",
            "publish",
            "result",
            "run_step",
            "saga",
            "send",
            "step",
            "stream",
            "timer",
        ],
        ["calling_run"],
    ],
    "stepwell.worker": [
        ["worker"],
        ["arriving"],
        ["repair", "scheduling"],
        ["running"],
        ["copies", "steps"],
        ["pace", "rules", "state"],
    ],
    "stepwell.worker.arriving": [
        ["arrivals"],
        ["loader", "outcomes", "run_timers"],
        ["inbox", "step_outcomes"],
    ],
    "stepwell.worker.copies": [
        ["asking", "checker", "moments"],
        ["throwaway"],
    ],
    "stepwell.worker.repair": [
        ["forking"],
        ["rewinding", "settlements", "undoing"],
    ],
    "stepwell.worker.rules": [
        ["conflicts"],
        ["queue_policy", "schedule_policy", "stuck", "versions"],
    ],
    "stepwell.worker.running": [
        ["claims"],
        ["ticks", "unstarted"],
        ["carrying"],
        ["activation"],
        ["letting_go", "run_endings"],
        ["failure_hooks"],
        ["spinning", "starting", "updates"],
    ],
    "stepwell.worker.scheduling": [
        ["queue_scheduler", "schedules"],
    ],
    "stepwell.worker.state": [
        ["executions", "opening", "operation_kinds"],
        ["runs"],
        ["commit_batch", "declarations"],
        ["effects", "unit_of_work"],
        ["facts", "parked", "queue_agenda", "run_cache"],
        ["journal_length", "loaded_run"],
        ["child_ids", "due", "failure_log", "run_over", "stream_books"],
    ],
    "stepwell.worker.steps": [
        ["step_dispatch"],
        ["progress", "transaction_outlet"],
        ["permits", "polling", "streams", "unrecorded"],
    ],
    "stepwell.replay": [
        ["execution"],
        ["operation_issuer"],
        ["divergence"],
        ["kinds"],
        ["operation"],
        ["loop"],
        ["loop_thread"],
        ["anyio_support", "closing", "code_errors", "isolation", "loop_methods"],
        [
            "advice",
            "blocking",
            "generators",
            "greenlets",
            "handlers",
            "loop_host",
            "map_count",
            "source_location",
            "stable_order",
            "tasks",
            "unretrieved",
        ],
        ["awaiting"],
    ],
    "stepwell.definitions": [
        ["arguments", "invoke", "jobs", "step_call"],
        ["decorators", "saying", "versions"],
        ["definition"],
        ["step_options"],
        ["code_identity", "namesakes", "schedules"],
        ["start_options"],
        ["queue_slots"],
        ["durable"],
        ["callables", "collector", "queues", "step_info"],
        ["reports"],
    ],
    "stepwell.values": [
        ["promise_form"],
        ["codec"],
        ["failure_codec"],
        ["failure_info"],
        ["added_fields", "converter", "failure"],
        ["differences", "exactness", "fingerprint", "payload"],
        ["comparison", "decoders", "large_values", "lost_fields", "plain", "transforms"],
        ["json_schema"],
        ["inspection", "own_frames", "own_tables", "signature"],
    ],
    "stepwell.model": [
        ["schedule"],
        ["calendar"],
        ["wall_time"],
        ["cron", "run", "start_policy"],
        ["attributes", "chapters"],
        ["clock", "undone", "updates"],
        ["failed_run", "promise"],
        [
            "acts",
            "calendar_spec",
            "durations",
            "journal",
            "lifecycle",
            "names",
            "permit_states",
            "progress",
            "retry",
            "sizes",
            "steady",
            "waits",
        ],
    ],
    "stepwell.store": [
        ["sqlite"],
        ["sql"],
        ["store"],
        ["worker_reads"],
        ["inspector", "membership", "notifications"],
        ["changes"],
        [
            "acts",
            "archives",
            "bulk_acts",
            "claims",
            "forks",
            "overview",
            "progress",
            "promises",
            "queues",
            "schedules",
            "settlements",
            "streams",
        ],
        ["replacements"],
    ],
    "stepwell.ui": [
        ["application"],
        ["pages"],
        ["site"],
        ["rendering"],
        ["cron_words", "forms", "waterfall"],
        ["access", "filter_links", "guard", "plots", "words"],
    ],
}

#: The pure part, packages and single modules, and what it must not import: the clock, the operating system, threads, a
#: store that exists.
PURE = [
    "stepwell.operations",
    "stepwell.replay",
    "stepwell.worker",
    "stepwell.api.asking.filters",
    "stepwell.api.reading.outline",
    "stepwell.api.reading.reasons",
    "stepwell.api.reading.why",
    "stepwell.definitions.code_identity",
    "stepwell.definitions.step_call",
    "stepwell.model.calendar",
    "stepwell.model.cron",
    "stepwell.model.durations",
    "stepwell.model.waits",
    "stepwell.model.calendar_spec",
    "stepwell.model.schedule",
    "stepwell.model.wall_time",
    "stepwell.runtime.serving.bulk_requests",
    "stepwell.runtime.driver",
    "stepwell.runtime.notifications",
    "stepwell.runtime.other_workers",
    "stepwell.runtime.serving.pause_requests",
    "stepwell.runtime.serving.promise_requests",
    "stepwell.runtime.serving.purging",
    "stepwell.runtime.serving.queue_requests",
    "stepwell.runtime.serving.request_gate",
    "stepwell.runtime.serving.requests",
    "stepwell.runtime.retention",
    "stepwell.runtime.serving.retry_requests",
    "stepwell.runtime.serving.fork_requests",
    "stepwell.runtime.serving.settle_requests",
    "stepwell.runtime.serving.rewind_requests",
    "stepwell.runtime.serving.run_requests",
    "stepwell.runtime.serving.schedule_requests",
    "stepwell.runtime.serving.stream_requests",
    "stepwell.runtime.turn",
    "stepwell.runtime.serving.update_requests",
    "stepwell.runtime.serving.waiters",
    "stepwell.ui.cron_words",
    "stepwell.ui.filter_links",
    "stepwell.ui.forms",
    "stepwell.ui.plots",
    "stepwell.ui.waterfall",
    "stepwell.ui.words",
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


def violations(
    source: Path,
    layers: list[list[str]],
    pure: list[str],
    impure: list[str],
    inside: dict[str, list[list[str]]] | None = None,
) -> list[str]:
    """Return every breach of the order, as ``file:line: what is wrong``."""
    known = modules(source)
    orders = {package: below(package, rows) for package, rows in (inside or {}).items()}
    found = []
    for module, path in known.items():
        place = path.relative_to(source.parent)
        own = layer_of(module, layers)
        if own is None:
            found.append(
                f"{place}:1: {module} is in no layer; give it a place in LAYERS of tests/project/test_layers.py"
            )
            continue
        is_pure = any(module == name or module.startswith(f"{name}.") for name in pure)
        around = {package: order for package, order in orders.items() if module.startswith(f"{package}.")}
        if any(layer_of(module, order) is None for order in around.values()):
            found.append(f"{place}:1: {module} has no place in INSIDE of {HERE}")
        if is_pure:
            found += [f"{place}:{line}: {module} is pure and must not use {name}" for name, line in chance(path)]
        for imported, line in sorted(set(imports(module, path, known)), key=lambda found: found[1]):
            if is_pure and any(imported == name or imported.startswith(f"{name}.") for name in impure):
                found.append(f"{place}:{line}: {module} is pure and must not import {imported}")
            other = layer_of(imported, layers) if imported in known else None
            if other is not None and other[1] != own[1] and other[0] <= own[0]:
                found.append(f"{place}:{line}: {module} must not import {imported}, which is not below it")
            for order in around.values():
                one, two = layer_of(module, order), layer_of(imported, order)
                if one is not None and two is not None and one[1] != two[1] and two[0] <= one[0]:
                    found.append(f"{place}:{line}: {module} must not import {imported}, which is not below it")
    return found


def owners_handed(source: Path, package: str) -> list[str]:
    """Return where a part of a package is handed its owner, as ``file:line: what is wrong``.

    Imports go down, so a part cannot name its owner. It can still be handed it: described by a protocol that has the
    owner's methods, or simply passed as ``self``, or as a method of ``self``, by the owner that makes the part.
    """
    known = {name: path for name, path in modules(source).items() if name.startswith(f"{package}.")}
    trees = {name: ast.parse(path.read_bytes()) for name, path in known.items()}
    classes = {
        name: [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)] for name, tree in trees.items()
    }
    imported = {name: {found for found, _ in imports(name, path, known)} for name, path in known.items()}
    found: list[str] = []
    for module, path in known.items():
        place = path.relative_to(source.parent)
        for part in classes[module]:
            if "Protocol" in {ast.unparse(base).partition("[")[0] for base in part.bases} and (asked := methods(part)):
                found += [
                    f"{place}:{part.lineno}: {part.name} describes {owner.name} of {above}, which uses {module}: hand "
                    "down what it needs, and let facts go up"
                    for above in sorted(known)
                    if module in imported[above]
                    for owner in classes[above]
                    if asked <= methods(owner)
                ]
        parts = {
            alias.asname or alias.name
            for node in ast.walk(trees[module])
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package)
            for alias in node.names
        }
        for owner in classes[module]:
            for call in (node for node in ast.walk(owner) if isinstance(node, ast.Call)):
                if isinstance(call.func, ast.Name) and call.func.id in parts:
                    found += [
                        f"{place}:{call.lineno}: {owner.name} hands {call.func.id} its owner: {ast.unparse(value)}"
                        for value in (*call.args, *(keyword.value for keyword in call.keywords))
                        if is_owner(value, methods(owner))
                    ]
    return found


def methods(node: ast.ClassDef) -> set[str]:
    """Return the names of a class's methods, but for those that every class has."""
    found = {part.name for part in node.body if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))}
    return {name for name in found if not name.startswith("__")}


def is_owner(value: ast.expr, own: set[str]) -> bool:
    """Tell whether an argument is ``self``, or a method of it."""
    if isinstance(value, ast.Attribute):
        return ast.unparse(value.value) == "self" and value.attr in own
    return ast.unparse(value) == "self"


def below(package: str, rows: list[list[str]]) -> list[list[str]]:
    """Return the order inside a package with whole names."""
    return [[f"{package}.{name}" for name in row] for row in rows]


def test_imports_go_down_only_and_the_pure_modules_stay_pure() -> None:
    found = violations(SOURCE, LAYERS, PURE, IMPURE, INSIDE)
    assert not found, "\n" + "\n".join(found)


#: What the engine's thread hands to others of itself, where the calls come from elsewhere, and why.
HANDED = {
    "TurnLoop its owner: self": "as its `Driver`; the simulator is another one",
    "Watchdog its owner: self._who_turns": "asked by the watchdog's own thread",
    "Watchdog its owner: self._each_second": "called by the watchdog's own thread",
    "StallWatch its owner: self._epoch": "asked by the thread that watches the other workers",
    "StepOutlet its owner: self._said": "called by the threads and loops on which steps execute",
    "StepsEnded its owner: self._steps_finished": "an event, which the turn loop calls when it is its turn",
}


@pytest.mark.parametrize("package", ["stepwell.worker", "stepwell.runtime"])
def test_no_part_is_handed_its_owner(package: str) -> None:
    found = owners_handed(SOURCE, package)
    wrong = [each for each in found if each.partition("EngineThread hands ")[2] not in HANDED]
    assert not wrong, "\n" + "\n".join(wrong)


def test_what_may_be_handed_of_an_owner_still_is() -> None:
    found = {each.partition("EngineThread hands ")[2] for each in owners_handed(SOURCE, "stepwell.runtime")}
    assert found == set(HANDED)


OWNED = """
from typing import Protocol
class Owner(Protocol):
    now: int
    def call_back(self) -> None: ...
class Part:
    def __init__(self, owner: Owner) -> None: ...
"""
FREE = "class Part:\n    def __init__(self, owner: object) -> None: ...\n"


@pytest.mark.parametrize(
    ("part", "owner", "expected"),
    [
        (OWNED, "p = Part(object())", "src/pkg/part.py:3: Owner describes Worker of pkg.worker, which uses pkg.part"),
        (FREE, "p = Part(self)", "src/pkg/worker.py:4: Worker hands Part its owner: self"),
        (FREE, "p = Part(owner=self)", "src/pkg/worker.py:4: Worker hands Part its owner: self"),
        (FREE, "p = Part(self.call_back)", "src/pkg/worker.py:4: Worker hands Part its owner: self.call_back"),
        (FREE, "p = Part(self.memory)", None),
        (OWNED.replace("call_back", "of_somebody_else"), "p = Part(object())", None),
    ],
)
def test_a_part_that_is_handed_its_owner_is_found(tmp_path: Path, part: str, owner: str, expected: str | None) -> None:
    room = tmp_path / "src" / "pkg"
    room.mkdir(parents=True)
    (room / "__init__.py").touch()
    (room / "part.py").write_text(part)
    made = f"    def __init__(self) -> None:\n        {owner}\n    def call_back(self) -> None: ...\n"
    (room / "worker.py").write_text(f"from pkg.part import Part\nclass Worker:\n{made}")
    found = owners_handed(tmp_path / "src", "pkg")
    assert [each[: len(expected or "")] for each in found] == ([] if expected is None else [expected])


def test_each_name_stands_in_one_layer_only() -> None:
    for rows in (LAYERS, *INSIDE.values()):
        names = [name for row in rows for name in row]
        assert sorted(names) == sorted(set(names))


def test_what_has_a_place_exists() -> None:
    known = modules(SOURCE)
    places = [*(name for row in LAYERS for name in row), *PURE]
    places += [name for package, rows in INSIDE.items() for row in below(package, rows) for name in row]
    assert not [name for name in places if name not in known]


def test_the_init_files_of_packages_import_nothing_of_the_package() -> None:
    known = modules(SOURCE)
    found = {
        module: sorted({name for name, _ in imports(module, path, known) if name.startswith("stepwell")})
        for module, path in known.items()
        if path.name == "__init__.py" and module not in ("stepwell", "stepwell.cli", "stepwell.testing", "stepwell.ui")
    }
    assert not {module: names for module, names in found.items() if names}


def test_the_order_inside_a_room_of_a_package_is_kept(tmp_path: Path) -> None:
    room = tmp_path / "src" / "pkg" / "wing" / "room"
    room.mkdir(parents=True)
    texts = {"__init__": "", "high": "", "low": "import pkg.wing.room.high", "new": ""}
    for name, text in texts.items():
        (room / f"{name}.py").write_text(text)
    for above in (room.parent, room.parent.parent):
        (above / "__init__.py").touch()
    inside = {"pkg.wing": [["room"]], "pkg.wing.room": [["high"], ["low"]]}
    assert violations(tmp_path / "src", [["pkg.wing"], ["pkg"]], [], [], inside) == [
        "src/pkg/wing/room/low.py:1: pkg.wing.room.low must not import pkg.wing.room.high, which is not below it",
        "src/pkg/wing/room/new.py:1: pkg.wing.room.new has no place in INSIDE of tests/project/test_layers.py",
    ]


def test_the_order_inside_a_package_is_kept(tmp_path: Path) -> None:
    room = tmp_path / "src" / "pkg" / "room"
    room.mkdir(parents=True)
    texts = {"__init__": "", "high": "", "low": "import pkg.room.high", "new": ""}
    for name, text in texts.items():
        (room / f"{name}.py").write_text(text)
    (room.parent / "__init__.py").touch()
    found = violations(tmp_path / "src", [["pkg.room"], ["pkg"]], [], [], {"pkg.room": [["high"], ["low"]]})
    assert found == [
        "src/pkg/room/low.py:1: pkg.room.low must not import pkg.room.high, which is not below it",
        "src/pkg/room/new.py:1: pkg.room.new has no place in INSIDE of tests/project/test_layers.py",
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pkg/low.py": "import pkg.high"}, "src/pkg/low.py:1: pkg.low must not import pkg.high"),
        ({"pkg/low.py": "\nfrom pkg import high"}, "src/pkg/low.py:2: pkg.low must not import pkg.high"),
        ({"pkg/low.py": "def f():\n    from .high import x"}, "src/pkg/low.py:2: pkg.low must not import pkg.high"),
        (
            {"pkg/low.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg.high import Owner"},
            "src/pkg/low.py:3: pkg.low must not import pkg.high",
        ),
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
