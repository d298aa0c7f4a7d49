"""A subscription that lives for years: ``python examples/subscription.py [subscriptions.db]``.

Each month is a chapter of its run, so that its journal stays short, and is billed exactly once: the bill is a row that
commits with the run's progress. While it lives, its plan is changed by an update and read by a query, and a schedule
reports on all of them. A month takes half a second here. With a file name the subscription stays in that file: kill the
program at any moment and start it again, and no month is billed twice.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from datetime import timedelta

import stepwell
from stepwell import Connection, Engine, Every, continue_as_new, publish, receive, transaction, workflow

#: In earnest, 30 * 24 * 3600.
MONTH_SECONDS = 0.5
#: So many months are watched before the subscription is ended.
MONTHS = 3


@transaction
def bill(connection: Connection, customer: str, month: int, plan: str) -> None:
    """Write a bill, in the commit that says that it was written."""
    connection.execute("INSERT INTO bills (customer, month, plan) VALUES (?, ?, ?)", (customer, month, plan))


@transaction
def count_bills(connection: Connection) -> int:
    """Return how many bills there are."""
    return int(connection.execute("SELECT count(*) FROM bills").fetchval())


@workflow
async def subscription(customer: str, month: int = 1, plan: str = "small") -> str:
    """Bill a customer every month, until somebody ends the subscription."""

    @stepwell.query
    def current_plan() -> str:
        return plan

    @stepwell.update
    def change_plan(wanted: str) -> str:
        nonlocal plan
        plan = wanted
        return f"{customer} has the {plan} plan"

    bill(customer, month, plan)
    await publish("month", month)
    try:
        async with asyncio.timeout(MONTH_SECONDS):
            await receive("end")
    except TimeoutError:
        return continue_as_new(customer, month + 1, plan)
    return f"{customer} has left"


@workflow
async def report() -> str:
    """Say how many bills there are; in earnest, send it to somebody."""
    return f"{count_bills()} bills"


def main(path: str) -> None:
    """Start a subscription and a schedule, change the one, look at both, end the subscription."""
    with Engine(path) as engine:
        with engine.transaction() as tx:
            tx.execute("CREATE TABLE IF NOT EXISTS bills (customer TEXT, month INTEGER, plan TEXT)")
        monthly = engine.schedule(report, id="monthly", every=Every(timedelta(days=30)))
        run = engine.start(subscription, "ada", id="subscription-ada")
        if run.info().ended_at is None:
            run.update("change_plan", "large", key="click-1")  # the key: asked twice, it is changed once
            while run.value("month") < MONTHS:
                time.sleep(0.02)
            run.send("end")
        print(run.result(timeout=60))
        print(f"the plan was {run.query('current_plan')}")
        months = [month for (month,) in engine.query("SELECT month FROM bills ORDER BY month")]
        print(f"each month was billed once: {months == list(range(1, len(months) + 1))}")
        print(f"the report says what is so: {monthly.trigger().result(timeout=60) == f'{len(months)} bills'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"{folder}/subscriptions.db")
