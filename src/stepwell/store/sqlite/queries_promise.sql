-- The SQL of promises. Read by `named_sql`; used by `sql/promises.py`. Times are microseconds since the Unix epoch. What
-- stands in braces is in fragments.sql.

-- name: promise_made
-- ?1 token, ?2 run, ?3 op, ?4 at, ?5 deadline_at, ?6 form.
INSERT INTO stepwell_promises (token, run, op, created_at, deadline_at, form) VALUES (?1, ?2, ?3, ?4, ?5, ?6);

-- name: promise
-- ?1 token. The columns are the fields of model.PromiseRecord in their order.
SELECT {promise}
FROM stepwell_promises AS promise JOIN stepwell_runs AS run ON run.key = promise.run WHERE promise.token = ?1;

-- name: promise_answered
-- ?1 token, ?2 state, ?3 at, ?4 by, ?5 answer. Only where it is open still, and its time has not passed.
UPDATE stepwell_promises SET state = ?2, ended_at = ?3, by = ?4, answer = ?5
WHERE token = ?1 AND state = 'open' AND (deadline_at IS NULL OR deadline_at > ?3);

-- name: promise_timed_out
-- ?1 token, ?2 at.
UPDATE stepwell_promises SET state = 'timed_out', ended_at = ?2
WHERE token = ?1 AND state = 'open' AND deadline_at <= ?2;

-- name: promises_withdrawn
-- ?1 run, ?2 at. Those that are not in the run's present chapter.
UPDATE stepwell_promises SET state = 'withdrawn', ended_at = ?2
WHERE run = ?1 AND state = 'open' AND op NOT IN (
    SELECT op FROM stepwell_journal WHERE run = ?1 AND kind = 'promised'
        AND position >= (SELECT journal_from FROM stepwell_runs WHERE key = ?1)
);

-- name: promises_reopened
-- ?1 run, ?2 at. Those of the present chapter that were rejected, or whose time passed, and whose run has not been told
-- (any more): for as long as at first. A retry takes back what a run did not survive. Of one operation the newest counts:
-- those before it are of earlier chapters.
UPDATE stepwell_promises AS promise SET state = 'open', ended_at = NULL, answer = NULL, by = NULL,
    deadline_at = ?2 + (deadline_at - created_at)
WHERE run = ?1 AND (state = 'rejected' OR state = 'timed_out')
    AND number = (SELECT max(number) FROM stepwell_promises AS other WHERE other.run = ?1 AND other.op = promise.op)
    AND EXISTS (
        SELECT 1 FROM stepwell_journal AS made WHERE made.run = ?1 AND made.op = promise.op AND made.kind = 'promised'
            AND made.position >= (SELECT journal_from FROM stepwell_runs WHERE key = ?1)
    )
    AND NOT EXISTS (
        SELECT 1 FROM stepwell_journal AS told WHERE told.run = ?1 AND told.op = promise.op AND told.kind <> 'promised'
            AND told.position >= (SELECT journal_from FROM stepwell_runs WHERE key = ?1)
    );

-- name: has_promises
-- ?1 run.
SELECT EXISTS (SELECT 1 FROM stepwell_promises WHERE run = ?1);

-- name: promises_of_run
-- ?1 run, ?2 operations as a JSON array. The columns are the fields of model.PromiseFacts in their order. Of one operation
-- the newest: those before it are of earlier chapters.
SELECT op, token, state, deadline_at, answer FROM stepwell_promises AS promise
WHERE run = ?1 AND op IN (SELECT value FROM json_each(?2))
    AND number = (SELECT max(number) FROM stepwell_promises AS other WHERE other.run = ?1 AND other.op = promise.op);

-- name: promises_open
-- ?1 after this number, ?2 how many, ?3 of which run, NULL: of all. The oldest first. The columns are the fields of
-- model.PromiseRecord in their order.
SELECT {promise}
FROM stepwell_promises AS promise JOIN stepwell_runs AS run ON run.key = promise.run
WHERE promise.state = 'open' AND promise.number > ?1 AND (?3 IS NULL OR promise.run = ?3) AND run.ended_at IS NULL
ORDER BY promise.number LIMIT ?2;

-- name: promises_purged
-- ?1 keys as a JSON array.
DELETE FROM stepwell_promises WHERE run IN (SELECT value FROM json_each(?1));
