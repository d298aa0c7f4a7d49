"""Why a run does not proceed, and why a queue does not, in words.

Pure: each function makes a text of facts that somebody else has read (`stepwell.api.reading.why`). A text says what is
waited for, what stands in the way, and, where somebody has to act, what to do. One of a run that waits is one line; it
makes sense behind "it does not run:".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from stepwell.definitions.queues import Rate
from stepwell.model.acts import ActRecord
from stepwell.model.clock import datetime_of, to_seconds
from stepwell.model.run import Member, Remedy
from stepwell.model.waits import Wait, shortened
from stepwell.store.queues import QueueState, Standing

#: How many runs or workers a text names.
_NAMED: Final = 3


def moment(at: int) -> str:
    """Return a time as the command line shows it: UTC, milliseconds."""
    return datetime_of(at).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- workers ----------------------------------------------------------------------------------------------------------


def takers(members: Collection[Member], workflows: Collection[str], queue: str | None) -> list[Member]:
    """Return the living workers that could carry on a run of one of these workflows, from this queue or from none."""
    return [
        member
        for member in members
        if member.takes_work
        and member.state != "dead"
        and (member.workflows is None or not member.workflows.isdisjoint(workflows))
        and (queue is None or member.queues is None or queue in member.queues)
    ]


def nobody(members: Collection[Member], workflows: Collection[str], queue: str | None) -> str | None:
    """Say why no worker takes runs of these workflows (from this queue) now; None where one does."""
    able = takers(members, workflows, queue)
    working = [member for member in members if member.takes_work and member.state != "dead"]
    if any(member.state == "active" for member in able):
        return None
    if able:
        return f"{_workers(able)} could take it, and {'is' if len(able) == 1 else 'are'} stopped"
    if not working:
        which = f"one that has the workflow {_listed(sorted(workflows))}" if len(workflows) == 1 else "one"
        return f"no worker has the file open: start {which} (`stepwell worker MODULE --db FILE`)"
    if not takers(members, workflows, None):
        what = f"the workflow {_listed(sorted(workflows))}" if len(workflows) == 1 else "any of the workflows that wait"
        return f"no worker that runs now has {what}; it waits for one that does"
    return f"no worker that runs now takes runs from queue {queue!r}; those with the workflow serve other queues"


def _workers(members: Sequence[Member]) -> str:
    shown = [f"worker {member.epoch} (process {member.pid} on {member.host})" for member in members[:_NAMED]]
    left = len(members) - len(shown)
    return " and ".join(shown) + (f" and {left} more" if left else "")


def owner_gone(owner: Member, successor: str | None) -> str | None:
    """Say what is wrong with the worker in whose memory a run is; None where it lives.

    `successor` says why nobody could take over; None where somebody will.
    """
    if owner.state == "dead":
        return f"{_workers([owner])}, which carried it on, has died; {successor or 'another one takes it over'}"
    if owner.state == "stopped":
        return (
            f"{_workers([owner])}, which has it in memory, is stopped (SIGSTOP, a debugger); let it go on, or let "
            f"others take its runs over: `stepwell takeover {owner.epoch}`"
        )
    return None


def suspect(crashes: int, under_way: str | None) -> str:
    """Say that a run seems to kill its workers; `under_way` is the one that others of the kind wait for."""
    text = f"workers died {crashes} times in a row while it was under way, so it is taken up alone"
    return text if under_way is None else f"{text}, after run {under_way!r}, which is under way and did the same"


# --- queues -----------------------------------------------------------------------------------------------------------


class QueueFacts(msgspec.Struct, frozen=True):
    """What there is to know about a queue or limit, or one partition of it (`partition`, busy with `busy`).

    `halted` and `halted_there` are the ids of the halted runs that keep places in the queue, and in the partition;
    `holders` are others that have places, or have permits, `holders_there` others in the partition: some of them;
    `apart` are those whose attempts keep theirs although nobody waits for them.
    `rate_opens_at` is when the rate lets the next one begin (0: it does not forbid it; None: not known).
    `partition_opens_at` is when the rate of the partition does, None: it does not forbid it.
    `nobody`, where set, says why no worker takes from it. `full_workers`: each worker that could is at `per_worker`,
    `full_there`: at `partition_per_worker`.
    """

    state: QueueState
    partition: str = ""
    busy: int = 0
    halted: list[str] = []
    halted_there: list[str] = []
    holders: list[str] = []
    holders_there: list[str] = []
    apart: list[str] = []
    rate_opens_at: int | None = 0
    nobody: str | None = None
    full_workers: bool = False
    partition_opens_at: int | None = None
    full_there: bool = False


def standing_in(facts: QueueFacts, standing: Standing, now: int) -> str:
    """Say what a run that stands in a queue waits for."""
    state = facts.state
    delay = _delay(standing, now)
    if delay is not None:
        return f"{delay}; {_paused(state)}" if state.paused else delay
    return obstacle(facts, now) or f"it waits for its turn in queue {state.name!r}, and for a worker with room for it"


def _delay(standing: Standing, now: int) -> str | None:
    if standing.state != "delayed":
        return None
    place, until = f"in queue {standing.queue!r}", moment(standing.ready_at)
    if standing.ready_at <= now:
        return None
    if standing.items is not None:
        return f"it collects the inputs of further starts {place} until {until}, and has {standing.items}"
    if standing.latest_at is not None:
        return f"it waits {place} until {until} for another start with its dedup key (debounce)"
    return f"it is delayed until {until} {place}"


def obstacle(facts: QueueFacts, now: int) -> str | None:
    """Say why nothing (of this partition) is taken from a queue now, or no permit of a limit granted; None: it is."""
    state = facts.state
    settings = state.settings
    if state.paused:
        return _paused(state)
    if facts.nobody is not None:
        return facts.nobody
    if settings.concurrency is not None and state.running >= settings.concurrency:
        return _full(facts, settings.concurrency)
    bound = settings.partition_concurrency
    which = f"partition {facts.partition!r}" if facts.partition else "the part without a partition"
    if bound is not None and facts.busy >= bound:
        keepers, held = (
            _halted_keepers(facts.halted_there),
            _holding(facts.holders_there, facts.busy - len(facts.halted_there)),
        )
        return f"{which} of queue {state.name!r} is full: {facts.busy} of {bound} runs are under way{held}{keepers}"
    if facts.rate_opens_at is None or facts.rate_opens_at > now:
        return _rated(facts)
    if facts.partition_opens_at is not None and facts.partition_opens_at > now:
        rate = _rate_text(settings.partition_rate)
        opens = moment(facts.partition_opens_at)
        return (
            f"as many have begun of {which} of queue {state.name!r} as its rate allows ({rate}); the next may begin at "
            f"{opens}"
        )
    if facts.full_there:
        held = _counted(settings.partition_per_worker or 0, "run")
        return (
            f"each worker that could take it has {held} of {which} of queue {state.name!r} already "
            "(partition_per_worker)"
        )
    if facts.full_workers:
        held = _counted(settings.per_worker or 0, "run")
        return f"each worker that could take it has {held} of queue {state.name!r} already (per_worker)"
    return None


def _paused(state: QueueState) -> str:
    kind, name = state.kind, state.name
    return f"{kind} {name!r} is paused; `stepwell unpause {name}` opens it"


def _full(facts: QueueFacts, concurrency: int) -> str:
    state = facts.state
    if state.kind == "queue":
        held = _holding(facts.holders, state.running - len(facts.halted))
        under_way = f"{state.running} of {concurrency} runs are under way{held}{_halted_keepers(facts.halted)}"
        return f"queue {state.name!r} is full: {under_way}"
    text = f"limit {state.name!r} is full: {state.running} of {concurrency} permits are in use"
    if facts.holders:
        text += f", by run {_listed(list(dict.fromkeys(facts.holders)))}"
    if facts.apart:
        text += (
            f"; {_counted(len(facts.apart), 'permit')} of them by attempts that go on although nobody waits for them "
            f"any more (of run {_listed(list(dict.fromkeys(facts.apart)))}): they come free when those end"
        )
    return text


def _holding(known: Sequence[str], number: int) -> str:
    """Name some of so many runs that keep places."""
    if not known:
        return ""
    shown = ", ".join(map(repr, known[:_NAMED]))
    left = number - min(len(known), _NAMED)
    return f" (run {shown}{f' and {left} more' if left > 0 else ''})"


def _halted_keepers(halted: Sequence[str]) -> str:
    if not halted:
        return ""
    verb = "keeps its place" if len(halted) == 1 else "keep their places"
    return (
        f", {len(halted)} of them halted (run {_listed(halted)}), which {verb} until resumed or cancelled: "
        "`stepwell resume RUN`, `stepwell cancel RUN`"
    )


def _rated(facts: QueueFacts) -> str:
    settings = facts.state.settings
    rate = _rate_text(settings.rate)
    when = "" if facts.rate_opens_at is None else f"; the next may begin at {moment(facts.rate_opens_at)}"
    kind = f"{facts.state.kind} {facts.state.name!r}"
    return f"as many have begun as the rate of {kind} allows ({rate}){when}"


def _rate_text(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.limit} in {to_seconds(rate.per, 'rate'):g} s"


def all_partitions_full(bound: int | None) -> str:
    """Say that a queue waits for its partitions; `bound` is None where their rate may be what they wait for."""
    if bound is None:
        return "each partition in which something waits is full, or as many have begun in it as its rate allows"
    return f"each partition in which something waits is full ({bound} runs under way in each)"


def names_halted(text: str | None) -> bool:
    """Tell whether a text of `obstacle` names the halted runs already."""
    return text is not None and "of them halted" in text


def halted_in(halted: Sequence[str]) -> str:
    """Say that halted runs keep places in a queue."""
    verb = "run keeps its place" if len(halted) == 1 else "runs keep their places"
    return (
        f"{len(halted)} halted {verb} until resumed or cancelled (run {_listed(halted)}): `stepwell resume RUN`, "
        "`stepwell cancel RUN`"
    )


# --- what its code waits for ------------------------------------------------------------------------------------------


def message(wait: Wait, unread: Sequence[str]) -> str:
    """Say that it waits for a message; `unread` are the names of those that lie there."""
    text = f"message {wait.name!r}"
    return f"{text} (unread are others, called {_listed(unread)})" if unread and wait.name not in unread else text


def timer(wait: Wait) -> str:
    """Say that it waits for a timer."""
    return "a timer" if wait.until is None else f"a timer until {moment(wait.until)}"


def promise(wait: Wait) -> str:
    """Say that it waits for somebody to answer."""
    until = "" if wait.until is None else f", until {moment(wait.until)}"
    return f"the answer to promise {wait.name!r} (operation {wait.op}; `stepwell promises` shows it){until}"


def retry(wait: Wait) -> str:
    """Say that it waits for another attempt of a step."""
    when = "" if wait.until is None else f" at {moment(wait.until)}"
    after = f", because the one before failed with {wait.error}" if wait.error else ""
    return f"attempt {wait.attempt} of step {wait.name!r}{when}{after}"


def poll(wait: Wait) -> str:
    """Say that it polls a step."""
    tries = f"{wait.attempt} {'try' if wait.attempt == 1 else 'tries'}"
    when = "" if wait.until is None else f", the next one is at {moment(wait.until)}"
    return f"what step {wait.name!r} returns, which it polls: {tries} so far{when}"


def permit(wait: Wait, hindrance: str | None, *, granted: bool) -> str:
    """Say that it waits for a permit of a limit; `hindrance` is why it has none, `granted` that it has one by now."""
    text = f"a permit of limit {wait.limit!r} for step {wait.name!r}"
    if granted:
        return f"{text}, which it has been granted"
    return text if hindrance is None else f"{text}: {hindrance}"


def other_run(wait: Wait, status: str | None, reason: str | None) -> str:
    """Say that it waits for the end of another run, whose state is `status` (None: there is none), and why it waits."""
    if status is None:
        return f"run {wait.name!r}, which is not in the file any more"
    why = "" if reason is None else f" ({reason})"
    return f"run {wait.name!r}, which is {status}{why}"


def halted_run(run_id: str, reason: str | None, *, is_child: bool) -> str:
    """Say that a run that it waits for is halted."""
    which = f"its child, run {run_id!r}," if is_child else f"run {run_id!r}, whose end it waits for,"
    return f"{which} is halted: {shortened(reason or 'the reason is not known')}"


def nothing(wait: Wait) -> str:
    """Say that nothing can wake it."""
    what = f", {wait.name}" if wait.name else ""
    where = f" ({wait.at})" if wait.at else ""
    return (
        f"something that nothing can bring about{what}{where}: no timer, message, step or run that could is open. "
        "Mend the code and resume it, or cancel it"
    )


def more(wait: Wait) -> str:
    """Say that there is more."""
    return f"{wait.count} more"


# --- put together -----------------------------------------------------------------------------------------------------


def due(since: int, taker: str | None, *, parked: bool) -> str:
    """Say that a run that nobody has in memory should go on; `taker` is why nobody takes it up, None: somebody does.

    `parked`: something came that it waited for; else its worker died while it was under way.
    """
    what = "what it waited for has come" if parked else "its worker ended while it was under way"
    return f"{what}; it has been due since {moment(since)}: {taker or 'it waits for a worker with room for it'}"


def looked_at_again(waits: str, since: int, taker: str | None) -> str:
    """Say what a run waits for that a worker shall look at, although nothing of that has come.

    Somebody resumed it, its worker ended, or what came is none of what it waits for.
    """
    then = taker or "it waits for a worker with room for it"
    return f"{waits}; it has been due for another look since {moment(since)}: {then}"


def not_said(until: int | None, *, taken_up: bool) -> str:
    """Say what little is known of a run whose row does not say what it waits for."""
    if taken_up:
        return "a worker is about to take it up"
    # An older release parked it; the first worker that reads it writes down more.
    return "it waits for a timer, a message or another run" + ("" if until is None else f", until {moment(until)}")


def for_room() -> str:
    """Say that only room is missing."""
    return "it waits for a worker with room for it"


def paused(act: ActRecord | None, run_id: str, ahead: int) -> str:
    """Say who paused a run, and how it goes on."""
    return f"it {_paused_by(act, ahead)}; `stepwell unpause {run_id}` lets it go on"


def pausing(act: ActRecord | None, ahead: int) -> str:
    """Say that it is to pause, and has steps under way."""
    return f"it {_paused_by(act, ahead)}, as soon as its steps under way have ended"


def _paused_by(act: ActRecord | None, ahead: int) -> str:
    if act is None:
        return "is paused"
    why = "" if act.reason is None else f" ({act.reason})"
    return f"was paused at {moment(act.at - ahead)} by {act.by}{why}"


def cancelling(at: int, reason: str | None) -> str:
    """Say that it was asked to stop."""
    return f"it was asked to cancel at {moment(at)}" + (f" ({reason})" if reason else "")


def deadline(at: int) -> str:
    """Say when it fails though nothing else happens."""
    return f"it fails at {moment(at)}, its deadline, unless it ends before"


def remedy(left: Remedy | None, run_id: str, queue: str | None) -> str:
    """Say what to do about a halted run; `left` is what its reason does not say already."""
    place = "" if queue is None else f" Until then it keeps its place in queue {queue!r}."
    if left == "resume":
        return f"`stepwell resume {run_id}` resumes it, `stepwell cancel {run_id}` gives it up.{place}"
    return (
        f"Mend the cause, then `stepwell resume {run_id}` (a worker that starts with other code tries it by itself), "
        f"or give it up: `stepwell cancel {run_id}`.{place}"
    )
