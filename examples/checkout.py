"""The order workflow of the README, runnable as it stands: ``python examples/checkout.py [orders.db]``.

With a file name the orders stay in that file: run it a second time and no step is executed again, as both orders have
ended; press Ctrl-C on the way, run it again, and it goes on where it stopped. A "day" lasts half a second here, so that
nobody has to wait for a real one; ``CHECKOUT_DAY_SECONDS=86400`` makes the days real.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from stepwell import Engine, Retry, receive, step, workflow

DAY_SECONDS = float(os.environ.get("CHECKOUT_DAY_SECONDS", "0.5"))


@dataclass(frozen=True)
class Order:
    """What a customer orders."""

    number: str
    email: str
    cents: int


@dataclass(frozen=True)
class Receipt:
    """The payment service's answer."""

    order: str
    cents: int


@step(retry=Retry(attempts=5, delay=1.0, backoff=2.0), timeout=30)
async def charge(order: Order) -> Receipt:
    """Take the money. This is where a call to a payment service would stand; `def` works as well."""
    print(f"  charge   {order.number}: {order.cents / 100:.2f}")
    return Receipt(order.number, order.cents)


@step
async def refund(receipt: Receipt) -> None:
    """Give the money back."""
    print(f"  refund   {receipt.order}: {receipt.cents / 100:.2f}")


@step
async def notify(email: str) -> None:
    """Write to the customer."""
    print(f"  notify   {email}")


@step
async def audit(order: Order) -> None:
    """Tell the accounts department."""
    print(f"  audit    {order.number}")


@step
def ship(order: Order) -> str:
    """Send the goods; return the tracking number."""
    print(f"  ship     {order.number}")
    return f"parcel-of-{order.number}"


@workflow
async def checkout(order: Order) -> str:
    """Charge, wait a day, ask for approval, ship; or refund what is not approved within three days."""
    receipt = await charge(order)  # recorded once, never run again after that
    await asyncio.sleep(DAY_SECONDS)  # a durable timer; the run leaves memory meanwhile
    if not await receive("approval", bool, timeout=timedelta(seconds=3 * DAY_SECONDS)):
        await refund(receipt)
        return "refused"
    async with asyncio.TaskGroup() as group:  # ordinary asyncio, replayed identically
        group.create_task(notify(order.email))
        group.create_task(audit(order))
    return ship(order)  # a sync step is just called


def main(path: Path) -> None:
    """Run two orders: one that is approved, one that nobody answers for."""
    with Engine(path) as engine:
        approved = engine.start(
            checkout, Order("order-42", "ada@example.com", 4_200), id="order-42"
        )  # same id: same run
        ignored = engine.start(checkout, Order("order-43", "bob@example.com", 900), id="order-43")
        if approved.info().status not in ("completed", "failed", "cancelled"):
            engine.send("order-42", "approval", True, key="approval-of-42")  # the key: once, however often this is run
        for run in (approved, ignored):
            print(f"{run.id}: {run.result(timeout=20 * DAY_SECONDS + 60)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory) / "orders.db")
