"""The file itself: what `stepwell doctor` finds, its size, its slowest steps; and a page for queries that only read."""

from __future__ import annotations

from typing import Final

from starlette.routing import Route

from stepwell.api.reading.read_service import ReadService
from stepwell.errors import InvalidArgument, ReadTooLong
from stepwell.ui.site import NotAllowed, Page, Site, Visit

#: How many rows a query shows.
ROWS: Final = 500
#: Queries to begin with.
EXAMPLES: Final = {
    "what needs attention": (
        "SELECT id, workflow, status, reason, updated_at FROM stepwell_run_view\n"
        "WHERE status IN ('halted', 'failed') ORDER BY updated_at DESC LIMIT 20"
    ),
    "slow steps": (
        "SELECT name, count(*) AS attempts, round(avg(took_seconds), 3) AS mean, max(took_seconds) AS longest\n"
        "FROM stepwell_journal_view WHERE kind IN ('step', 'step_failed') GROUP BY name ORDER BY mean DESC LIMIT 20"
    ),
    "unread messages": (
        "SELECT run_id, name, sent_at, value FROM stepwell_message_view WHERE taken_at IS NULL ORDER BY position"
    ),
}


def routes(site: Site) -> list[Route]:
    """Return the addresses of these pages."""

    def database(_reads: ReadService, _visit: Visit) -> Page:
        found = site.sums.get("doctor", site.face.diagnosis)
        shown = {"found": found, "retention": site.face.retention_seconds(), "may_query": _may_query(site)}
        return Page("database.html", {"page": "database", **shown})

    def query(_reads: ReadService, visit: Visit) -> Page:
        if not _may_query(site):
            raise NotAllowed("Some fields are hidden here, and a query could show them.")
        if not visit.user.may_act:
            raise NotAllowed("Queries are for whoever may act: they show all there is in the file.")
        sql, answer, fault = visit.form.get("sql", ""), None, None
        if sql.strip():
            try:
                answer = site.face.query(sql, ROWS)
            except (InvalidArgument, ReadTooLong) as error:
                fault = str(error)
        shown = {"page": "database", "sql": sql, "answer": answer, "fault": fault, "examples": EXAMPLES, "most": ROWS}
        return Page("query.html", shown)

    return [
        Route("/database", site.page(database)),
        Route("/database/query", site.page(query), methods=["GET", "POST"]),
    ]


def _may_query(site: Site) -> bool:
    return not site.redactor.hides_any
