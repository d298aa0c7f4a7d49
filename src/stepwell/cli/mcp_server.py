"""A server of the Model Context Protocol for coding agents: they look into a file and, where they may, act on runs.

Each answer is JSON as `--json` of the commands prints it. What is read, is read as any SQLite tool may; what acts opens
an engine that serves no workflow, and is recorded with who acted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, cast

import click
import msgspec
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from stepwell import __version__
from stepwell.api.asking.acts import user_at_host
from stepwell.api.doctor import examine
from stepwell.api.engine import Engine
from stepwell.cli.documents import page, topics
from stepwell.cli.reading import meant, reads, schema_of
from stepwell.errors import StepwellError

if TYPE_CHECKING:
    from stepwell.store.inspector import CountGroup

#: How many runs are listed at most: an answer is read by a model.
_MOST: Final = 200
_INSTRUCTIONS: Final = (
    "Looks into a file of Stepwell, which executes durable workflows. Begin with doctor(), or with "
    "find_runs('status:failed,halted'). Filters are explained by docs('filters'), everything else by docs()."
)


def server(db: str, *, allow_acts: bool) -> MCPServer:
    """Return a server for one file, whose tools only read unless `allow_acts`."""
    made = MCPServer("stepwell", instructions=_INSTRUCTIONS, version=__version__)
    for tool in _Looks(db).tools() + (_Acts(db).tools() if allow_acts else []):
        made.add_tool(_answering(tool))
    return made


def _answering(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Return a tool that tells the agent why Stepwell refused; of other errors it is told that there was one."""

    @wraps(tool)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return tool(*args, **kwargs)
        except (StepwellError, click.ClickException) as error:
            raise ToolError(str(error)) from error

    return answer


def _data(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


class _Looks:
    def __init__(self, db: str) -> None:
        self._db = db

    def tools(self) -> list[Any]:
        return [self.find_runs, self.count_runs, self.show_run, self.why, self.doctor, self.schema, self.docs]

    def find_runs(self, filter: str = "", limit: int = 50) -> list[Any]:
        """List runs, newest first, with state, times, error or reason; filter: status:failed started>-2h tag:vip."""
        with reads(self._db) as read:
            return list(_data(read.infos(filter, limit=max(1, min(limit, _MOST)))))

    def count_runs(self, filter: str = "", by: str = "status") -> dict[str, int]:
        """Count the runs that match a filter by status, workflow or queue."""
        with reads(self._db) as read:
            return read.counts(filter, cast("CountGroup", by))  # it is checked there

    def show_run(self, run: str) -> dict[str, Any]:
        """Show everything about a run: facts, input, result, failure with traceback, children, acts, journal."""
        with reads(self._db) as read:
            return dict(_data(read.details(meant(read, run))))

    def why(self, run: str) -> str:
        """Say why a run is as it is: what it waits for and until when, why it failed or is halted, and what to do."""
        with reads(self._db) as read:
            info = read.info(meant(read, run))
        return f"run {info.id!r} of {info.workflow} is {info.status}: {info.error or info.reason or 'nothing to add'}"

    def doctor(self) -> dict[str, Any]:
        """Examine the file: what is wrong, or will be soon, and what to do."""
        return dict(_data(examine(self._db)))

    def schema(self) -> str:
        """Return the SQL of the file's tables and views, with comments."""
        return schema_of(self._db)

    def docs(self, topic: str = "") -> str:
        """Return a page of the documentation; without a topic, the list of topics."""
        return page(topic) if topic else "\n".join(f"{name}: {title}" for name, title in topics().items())


class _Acts:
    def __init__(self, db: str) -> None:
        self._db = db

    def tools(self) -> list[Any]:
        return [self.cancel_run, self.retry_run, self.resume_run, self.pause_run, self.unpause_run, self.send_message]

    def _handle(self, engine: Engine, run: str) -> Any:
        with reads(self._db) as read:
            found = read.record(run).id  # as it is written: what acts guesses nothing
        return engine.get(found)

    def _act(self, name: str, run: str, reason: str) -> str:
        with Engine(self._db, workflows=[]) as engine:
            getattr(self._handle(engine, run), name)(reason=reason, by=f"an agent of {user_at_host()}")
        return f"run {run!r}: {name} is recorded"

    def cancel_run(self, run: str, reason: str) -> str:
        """Ask a run to stop; `reason` is recorded."""
        return self._act("cancel", run, reason)

    def retry_run(self, run: str, reason: str) -> str:
        """Bring a failed or cancelled run back: it goes on from the step that failed."""
        return self._act("retry", run, reason)

    def resume_run(self, run: str, reason: str) -> str:
        """Have a halted run tried again, with the code that the workers have now."""
        return self._act("resume", run, reason)

    def pause_run(self, run: str, reason: str) -> str:
        """Stop a run between its steps, until somebody unpauses it."""
        return self._act("pause", run, reason)

    def unpause_run(self, run: str, reason: str) -> str:
        """Let a paused run go on."""
        return self._act("unpause", run, reason)

    def send_message(self, run: str, name: str, value: Any = None) -> str:
        """Send a run a message."""
        with Engine(self._db, workflows=[]) as engine:
            self._handle(engine, run).send(name, value)
        return f"run {run!r}: message {name!r} is recorded"
