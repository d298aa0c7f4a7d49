"""The options of a listing of runs, checked before the file is read.

Apart from `stepwell.api.asking.options`, so that a command that only looks does not import what executes workflows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from stepwell.errors import InvalidArgument
from stepwell.model.lifecycle import STATUSES, Status
from stepwell.model.names import check_text
from stepwell.shown import shown

if TYPE_CHECKING:
    from stepwell.definitions.definition import Workflow


class Listing(TypedDict, total=False):
    """The keyword arguments of a listing of runs, typed once for engines and the read service."""

    status: Status | Sequence[Status] | None
    workflow: Workflow[..., Any] | str | None
    id_prefix: str | None
    limit: int
    before: str | None


#: What holds where an option is left out.
LISTING_DEFAULTS: Final[Listing] = {"status": None, "workflow": None, "id_prefix": None, "limit": 100, "before": None}

#: The most runs that one call lists, or retries.
MAX_PAGE: Final = 2**31


def with_defaults(given: Listing) -> dict[str, Any]:
    """Return all options of a listing; raises `TypeError` for what is no option."""
    for name in given:
        if name not in LISTING_DEFAULTS:
            raise TypeError(f"a listing of runs has no option {name!r}; it has {', '.join(LISTING_DEFAULTS)}")
    return {**LISTING_DEFAULTS, **given}


def at_least(number: object, least: int, what: str) -> int:
    """Return a whole number that is not below `least`; raises `InvalidArgument`."""
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise InvalidArgument(f"{what} must be a whole number of at least {least}, not {shown(number)}")
    return number


def checked_statuses(status: Status | Sequence[Status] | None) -> tuple[Status, ...] | None:
    """Return the states to list, None for all; raises `InvalidArgument`."""
    if status is None:
        return None
    if not isinstance(status, Iterable):
        raise InvalidArgument(f"status must be one of {', '.join(STATUSES)}, or a list of them, not {shown(status)}")
    wanted = cast("tuple[Status, ...]", (status,) if isinstance(status, str) else tuple(status))
    for name in wanted:
        if name not in STATUSES:
            raise InvalidArgument(f"status must be one of {', '.join(STATUSES)}, not {shown(name)}")
    return wanted


def checked_workflow(workflow: Workflow[..., Any] | str | None) -> str | None:
    """Return the name of the workflow whose runs to list, None for all; raises `InvalidArgument`."""
    if workflow is None or isinstance(workflow, str):
        return check_text(workflow, "workflow")
    from stepwell.definitions.definition import Workflow  # whoever has one has imported it

    if isinstance(workflow, Workflow):
        return workflow.name
    raise InvalidArgument(f"workflow must be a @workflow or the name of one, not {shown(workflow)}")
