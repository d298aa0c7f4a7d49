"""Carry a file of the shop to its end, whatever state it is in, and say what is wrong with that."""

from __future__ import annotations

from collections import Counter
from typing import Any

from proof.client import Client, Plan
from proof.holding import Held, look_into
from proof.shop import OBSERVER, PASSING
from stepwell.testing import TestEngine


def finish(path: str, plan: Plan, before: Held | None, **options: Any) -> list[str]:
    """Open the file at `path` with an engine, carry everything to its end, and return what is wrong with that.

    `before`: what the file held; no step that it records may be executed again, and its journal must stay.
    """
    OBSERVER.reset(None)
    engine = TestEngine(path, **options)
    wrong: list[str] = []
    try:
        client = Client(engine, plan)
        client.do_all()
        client.end_all()
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        engine.close()
    executed = list(OBSERVER.executed)
    after = look_into(path)
    wrong += after.wrong
    for execution, count in Counter(executed).items():
        if count > 1:
            wrong.append(f"executed {count} times by one engine: {execution}")
    if before is not None:
        again = before.recorded & {(run, label) for run, label, _ in executed}
        wrong += [f"recorded, but executed again: {pair}" for pair in sorted(again)]
        if lost := before.journal - after.journal:
            wrong.append(f"journal entries that vanished: {sorted(lost, key=repr)[:3]}")
    wrong += _compare_ends(after, plan)
    return wrong


def _compare_ends(after: Held, plan: Plan) -> list[str]:
    ended = {str(fact[1]) for fact in after.facts if fact[0] == "ended"}
    wrong = [
        f"run {run_id!r} did not end"
        for run_id in plan.expected()
        if run_id not in ended and not run_id.startswith(PASSING)
    ]
    booked = {pair for pair in after.recorded if pair[1] in {"pay", "stamp"}}
    wanted = {(f"order-{number}", "pay") for number in plan.all_orders}
    wanted |= {(f"order-{number}-parcel", "stamp") for number in plan.all_orders}
    if booked != wanted:
        wrong.append(f"paid too much or too little: {sorted(booked ^ wanted)}")
    return wrong
