"""Steps that are started by themselves: a job is a run of one step, without a workflow of the user's.

To everything that carries runs on it is a workflow, whose code calls the step and returns its result: so attempts,
limits, timeouts, transactions, deliveries and recovery are those of any step. In the file the run has the name of the
step behind a prefix in the place of its workflow's, so that it shows as what it is.

Steps are entered in a plain registry, as workflows are, but it does not keep them: one that was declared inside a
function is gone with it. A worker cannot know which of them somebody else starts, so it serves those by name that the
file knows to have been started (`Served.note`), of those that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from stepwell.definitions.definition import JOB_PREFIX, STEPS, Step, Versioned, Workflow, registered_workflows
from stepwell.definitions.durable import Host, current_host
from stepwell.definitions.namesakes import are_different, place_of
from stepwell.definitions.versions import WithOne
from stepwell.errors import DefinitionError, InvalidArgument
from stepwell.values.signature import Signature


class Job(Workflow[..., Any]):
    """What stands for a step in the place of a workflow: see the module. Made by `job_of`."""

    __slots__ = ("step",)

    def __init__(self, step: Step[..., Any]) -> None:
        self.step = step

        async def call(*args: Any, **kwargs: Any) -> Any:
            host = cast("Host", current_host())
            return await host.call_async(step, args, kwargs)

        super().__init__(call, JOB_PREFIX + step.name)
        self.__wrapped__ = step.function

    def _signature(self) -> Signature:
        return self.step.signature


#: Those that this process has started, or was to execute: they stay, as workflows do.
_kept: Final[dict[str, Job]] = {}


def job_of(step: Step[..., Any]) -> Job:
    """Return what stands for a step that is started; raises `DefinitionError` or `InvalidArgument` where it cannot be.

    So it is with a step that is bound to an object, which no worker could know of, or has other options than it was
    declared with, which are not recorded.
    """
    if step.is_bound and not step.is_of_its_class:
        raise DefinitionError(
            f"{step!r} is bound to an object, which is not recorded, so no worker could execute it by itself. Make it "
            "a function, a @staticmethod or a @classmethod and pass what it needs"
        )
    if step.step_options is not step.unconfigured().step_options:
        raise InvalidArgument(
            f"{step!r} was given other options for a call, and a start does not record them: declare a step that has "
            "them, or start a workflow that calls it so"
        )
    name = JOB_PREFIX + step.name
    known = STEPS.get(step.name)
    if known is not None and known is not step and are_different(known, step):
        raise DefinitionError(
            f"there are two steps of the name {step.name!r}, {place_of(known)} and {place_of(step)}, so a worker could "
            "not tell which to execute: give one of them another name="
        )
    job = _kept.get(name)
    if job is None or are_different(job.step, step):
        job = _kept[name] = Job(step)
    return job


def job_named(name: str) -> Job | None:
    """Return what stands for the step behind a name that begins with `JOB_PREFIX`; None where this process has none."""
    job = _kept.get(name)
    if job is None:
        step = STEPS.get(name.removeprefix(JOB_PREFIX))
        if step is not None:
            job = _kept[name] = Job(step.resolved())
    return job


class Served(Versioned):
    """All that an engine serves: workflows, without a list those of this process, also later ones; and its steps.

    Any step of the process is found by name. Those that are counted are the ones that were started. Steps have no
    versions.
    """

    def __init__(self, workflows: Versioned | None = None) -> None:
        self._workflows = registered_workflows() if workflows is None else workflows
        self._started: list[str] = []

    def note(self, started: Iterable[str]) -> None:
        """Take note of the names that jobs in the file have: those whose steps this process has are served."""
        self._started = [name for name in started if job_named(name) is not None]

    def with_one(self, workflow: Workflow[..., Any]) -> Served:
        """Return the same with another workflow, in place of one of its name and version."""
        return Served(WithOne(self._workflows, workflow))

    def in_version(self, name: str, version: int) -> Workflow[..., Any] | None:
        """Return the workflow of this name in this version, or None."""
        return self._workflows.in_version(name, version)

    def versions(self) -> frozenset[tuple[str, int]]:
        """Return the names and versions of all workflows that have one."""
        return self._workflows.versions()

    def __getitem__(self, name: str) -> Workflow[..., Any]:
        """Return what is executed under a name."""
        found = job_named(name) if name.startswith(JOB_PREFIX) else self._workflows[name]
        if found is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        """Tell whether something is executed under a name."""
        return name in self._workflows or (
            isinstance(name, str) and name.startswith(JOB_PREFIX) and job_named(name) is not None
        )

    def __iter__(self) -> Iterator[str]:
        """Yield the names of what runs may be waiting for."""
        yield from self._workflows
        yield from self._started

    def __len__(self) -> int:
        """Return how many names that are."""
        return len(self._workflows) + len(self._started)
