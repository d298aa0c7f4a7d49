-- Why a run does not run: what it waits for, written by the update that parks it, and what halted it; and which workers
-- could carry it on. Times are as in the first schema.

ALTER TABLE stepwell_runs ADD COLUMN waiting_on
    /* What its code waited for when it was parked, as JSON: see stepwell.waits. NULL in a waiting run: it was under way
       when its worker ended, and is due. */
    TEXT CHECK (waiting_on IS NULL OR status = 'waiting');
ALTER TABLE stepwell_runs ADD COLUMN halted_by
    /* The failure that halted it, as in `error`, with its traceback. */
    ANY CHECK (halted_by IS NULL OR status = 'halted');

ALTER TABLE stepwell_runs ADD COLUMN ahead
    /* How far the times in this file were ahead of the wall clock when the run was created, in microseconds: 0, but where
       something was written to the file while a clock was wrong. The run reckons its dates with it. */
    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stepwell_runs ADD COLUMN resumed
    /* 1 where somebody asked that it be tried again, since it was halted last: then a step whose result could not be
       recorded is executed once more with the same code. */
    INTEGER NOT NULL DEFAULT 0 CHECK (resumed IN (0, 1));
ALTER TABLE stepwell_runs ADD COLUMN queue_place
    /* Where a run that failed or was cancelled stood in its queue: partition and priority, as JSON. For a retry. */
    TEXT CHECK (queue_place IS NULL OR (status = 'failed' OR status = 'cancelled'));

ALTER TABLE stepwell_workers ADD COLUMN workflows
    /* The workflows that it has, as JSON; NULL: not known. */
    TEXT;
ALTER TABLE stepwell_workers ADD COLUMN queues
    /* The queues that it takes runs from, as JSON; NULL: all. */
    TEXT;

DROP VIEW stepwell_run_view;
CREATE VIEW stepwell_run_view AS
-- Runs for human eyes: times as ISO 8601 in UTC, durations in seconds, names instead of keys.
SELECT
    run.id AS id,
    run.workflow AS workflow,
    run.status AS status,
    run.reason AS reason,
    run.waiting_on AS waiting_on,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.created_at - run.ahead) / 1e6, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.updated_at - run.ahead) / 1e6, 'unixepoch') AS updated_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.started_at - run.ahead) / 1e6, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.wake_at - run.ahead) / 1e6, 'unixepoch') AS wake_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.deadline_at - run.ahead) / 1e6, 'unixepoch') AS deadline_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.cancel_requested_at - run.ahead) / 1e6, 'unixepoch') AS cancel_requested_at,
    run.cancel_reason AS cancel_reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', (run.ended_at - run.ahead) / 1e6, 'unixepoch') AS ended_at,
    (run.ended_at - run.created_at) / 1e6 AS took_seconds,
    parent.id AS parent_id,
    run.parent_op AS parent_op,
    run.attached AS attached,
    CASE typeof(run.input) WHEN 'blob' THEN '(' || length(run.input) || ' bytes compressed)' ELSE run.input END AS input,
    CASE typeof(run.result) WHEN 'blob' THEN '(' || length(run.result) || ' bytes compressed)' ELSE run.result END
        AS result,
    CASE typeof(run.error) WHEN 'blob' THEN '(' || length(run.error) || ' bytes compressed)' ELSE run.error END
        AS error,
    CASE typeof(run.halted_by)
        WHEN 'blob' THEN '(' || length(run.halted_by) || ' bytes compressed)' ELSE run.halted_by
    END AS halted_by,
    worker.pid AS owner_pid,
    worker.host AS owner_host,
    run.crashes AS crashes,
    run.key AS key
FROM stepwell_runs AS run
LEFT JOIN stepwell_runs AS parent ON parent.key = run.parent
LEFT JOIN stepwell_workers AS worker ON worker.epoch = run.owner;
