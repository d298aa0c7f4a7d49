"""A saga: ``python examples/trip.py [trips.db]`` books three trips, and undoes what does not get through.

The first gets through, of the second the last part is not to be had, the third is cancelled by the traveller while it
waits for an approval. What undoes each part is registered with the part, and called in reverse. With a file name the
trips stay in that file: kill the program at any moment, start it again, and it goes on undoing where it stopped.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import stepwell
from stepwell import Engine, PermanentError, Retry, RunCancelled, publish, receive, step, workflow


@step(retry=Retry(attempts=5, delay=1.0))
async def book(trip: str, part: str) -> str:
    """Book one part; a call to some provider would stand here."""
    if part == "balloon":
        raise PermanentError("no wind")
    print(f"  {trip}: booked {part}")
    return f"{trip}/{part}"


@step(retry=Retry(attempts=100, delay=1.0, max_delay=600))
async def cancel_booking(booking: str) -> None:
    """Cancel a booking. It has to get through: see its retries."""
    print(f"  {booking.replace('/', ': cancelled ')}")


@step
async def send_tickets(trip: str, bookings: list[str]) -> str:
    """Send what was booked to the traveller."""
    print(f"  {trip}: tickets sent")
    return f"{len(bookings)} tickets"


@workflow
async def travel(trip: str, parts: list[str], needs_approval: bool) -> str:
    """Book all parts or none."""
    async with stepwell.saga() as saga:
        bookings: list[str] = []
        for part in parts:
            booking = await book(trip, part)
            saga.undo(cancel_booking, booking)
            bookings.append(booking)
        if needs_approval:
            await publish("asks", "who is to approve")
            await receive("approval", bool)
        saga.pivot()  # paid and approved: from here on nothing is undone
        return await send_tickets(trip, bookings)


def main(path: Path) -> None:
    """Take three trips, and say how each ended."""
    with Engine(path) as engine:
        engine.start(travel, "rome", ["flight", "hotel"], False, id="rome")
        engine.start(travel, "alps", ["train", "hut", "balloon"], False, id="alps")
        waits = engine.start(travel, "oslo", ["ferry", "cabin"], True, id="oslo")
        waits.value("asks", timeout=60)
        waits.cancel("the traveller is ill")
        ends: list[str] = []
        for trip in ("rome", "alps", "oslo"):
            try:
                ends.append(f"{trip}: {engine.get(trip).result(timeout=60)}")
            except (PermanentError, RunCancelled) as error:
                ends.append(f"{trip}: undone, {error}")
    print("\n".join(ends))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory) / "trips.db")
