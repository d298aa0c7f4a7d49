"""A promise as users see it: what is asked, of whom, until when."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from stepwell.model.clock import datetime_of
from stepwell.model.promise import PromiseRecord
from stepwell.values.codec import Codec


class PromiseInfo(msgspec.Struct, frozen=True):
    """An open promise: what a person, or a program, is asked for. Times are aware, UTC.

    - `token`: for `Engine.resolve` and `Engine.reject`; whoever has it can answer.
    - `run_id`, `workflow`, `operation`: the run that waits for it.
    - `title`, `text`, `choices`, `evidence`: its `Form`, as JSON has it.
    - `type`: the name of the type of the answer; `schema`: its JSON schema, empty if every value fits.
    - `deadline_at`: until when it can be answered; None: as long as its run waits.
    - `on_timeout`: what happens at the deadline: ``"default"``: the run goes on with `default`; ``"error"``:
      `PromiseTimedOut` is raised in it.
    """

    token: str
    run_id: str
    workflow: str
    operation: int
    title: str
    text: str
    choices: list[Any]
    evidence: Any
    type: str
    schema: dict[str, Any]
    created_at: datetime
    deadline_at: datetime | None
    on_timeout: str
    default: Any

    @classmethod
    def of(cls, record: PromiseRecord, codec: Codec) -> PromiseInfo:
        """Make it from a row."""
        from stepwell.values.promise_form import read_form

        form, read = (
            read_form(codec, record.form, f"the form of a promise of run {record.run_id!r}"),
            msgspec.json.decode,
        )
        return cls(
            record.token,
            record.run_id,
            record.workflow,
            record.op,
            form.title,
            form.text,
            [read(choice) for choice in form.choices],
            read(form.evidence),
            form.type,
            read(form.schema),
            datetime_of(record.created_at - record.ahead),
            None if record.deadline_at is None else datetime_of(record.deadline_at - record.ahead),
            "default" if form.has_default else "error",
            read(form.default),
        )
