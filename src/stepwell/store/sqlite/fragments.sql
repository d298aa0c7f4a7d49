-- What many statements share. Read by `named_sql`, which puts a fragment where a statement has its name in braces.

-- fragment: run_record
-- The columns of stepwell_runs that are the fields of model.RunRecord, in their order.
key, id, workflow, status, input, fingerprint, created_at, updated_at, started_at, result, error, reason, owner, wake_at,
    deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at, crashes, queue, queued, waiting_on,
    ahead, remedy, {chapter}, resumed, suspect, paused, version;

-- fragment: run_facts
-- The same without the payloads that may have many megabytes, the input and the result.
key, id, workflow, status, NULL AS input, fingerprint, created_at, updated_at, started_at, NULL AS result, error, reason,
    owner, wake_at, deadline_at, parent, parent_op, attached, cancel_requested_at, cancel_reason, ended_at, crashes, queue,
    queued, waiting_on, ahead, remedy, {chapter}, resumed, suspect, paused, version;

-- fragment: chapter
-- The fields of model.Chapter in their order, as JSON; NULL in the first chapter of a run, without a look at its table.
iif(journal_from = 0, NULL, (
    SELECT json_array(number, clock_from, seed, ops_before, runs_before)
    FROM stepwell_chapters WHERE run = stepwell_runs.key ORDER BY number DESC LIMIT 1
)) AS chapter;

-- fragment: entry
-- The columns of stepwell_journal that are the fields of journal.Entry, in their order.
run, op, kind, name, fingerprint, at, value, attempt, started_at, position;

-- fragment: queue_state
-- The fields of QueueState in their order, those of its settings in their place.
name, kind, concurrency, per_worker, partition_concurrency, rate_limit, rate_per, partition_per_worker,
    partition_rate_limit, partition_rate_per, paused, delayed, waiting, running, starts, unconfirmed, last_start_at,
    iif(delayed > 0, (SELECT min(ready_at) FROM stepwell_entries WHERE queue = name AND state = 'delayed'), NULL),
    iif(partition_rate_limit IS NULL, NULL, (
        SELECT opens_at FROM stepwell_lanes
        WHERE queue = name AND opens_at IS NOT NULL AND waiting > 0 ORDER BY opens_at LIMIT 1
    ));

-- fragment: promise
-- The fields of model.PromiseRecord, in their order.
promise.number, promise.token, promise.run, run.id, run.workflow, run.status, run.owner, promise.op, promise.state,
    promise.created_at, promise.deadline_at, promise.ended_at, promise.by, promise.form, promise.answer, run.ahead;

-- fragment: in_order
-- Of a listing: the time by which runs are ordered, ?21; keys are given in the order of creation.
CASE ?21 WHEN 'created' THEN key WHEN 'started' THEN started_at WHEN 'ended' THEN ended_at END;

-- fragment: matches
-- What all listings of runs filter by, by the parameters given in queries_list.sql. Those stand first for which a walk may have
-- to pass by many runs: what comes after the first that does not hold costs nothing.
(?14 IS NULL OR started_at < ?14)
    AND (?16 IS NULL OR ended_at < ?16)
    AND (?3 IS NULL OR (id >= ?3 AND id < ?4))
    AND (?1 IS NULL OR status IN (SELECT value FROM json_each(?1)))
    AND (?2 IS NULL OR workflow = ?2)
    AND (?13 IS NULL OR queue = ?13)
    AND (?5 IS NULL OR parent = ?5)
    AND (?6 IS NULL OR created_at > ?6)
    AND (?7 IS NULL OR created_at < ?7)
    AND (?10 IS NULL OR started_at >= ?10)
    AND (?15 IS NULL OR ended_at >= ?15)
    AND (?11 = 0 OR parent IS NULL)
    AND (?12 IS NULL OR id = ?12)
    AND (?18 IS NULL OR json_array_length(?18) = (
        SELECT count(*) FROM stepwell_tags AS tagged
        WHERE tagged.run = key AND tagged.tag IN (SELECT value FROM json_each(?18))
    ))
    AND (?17 IS NULL OR {has_attributes});

-- fragment: has_attributes
-- Of a listing: that the run has each attribute that ?17 names, and that all conditions on it hold: [name, conditions] of each,
-- a condition being a list of [kind, comparison, value] of which one must hold. The names of json_each hide those of the run, so
-- they stand where nothing of it is meant.
json_array_length(?17) = (
    SELECT count(*) FROM stepwell_attributes AS had
    WHERE had.run = key AND had.name IN (SELECT value ->> 0 FROM json_each(?17)) AND NOT EXISTS (
        SELECT 1 FROM json_each(?17) AS wanted CROSS JOIN json_each(wanted.value, '$[1]') AS condition
        WHERE wanted.value ->> 0 = had.name AND NOT EXISTS (
            SELECT 1 FROM json_each(condition.value) AS meant
            WHERE meant.value ->> 0 = had.kind AND CASE meant.value ->> 1
                WHEN '=' THEN had.value = meant.value ->> 2
                WHEN '<' THEN had.value < meant.value ->> 2
                WHEN '>' THEN had.value > meant.value ->> 2
                WHEN '<=' THEN had.value <= meant.value ->> 2
                WHEN '>=' THEN had.value >= meant.value ->> 2
            END
        )
    )
);

-- fragment: may_wake
-- The condition of stepwell_runs_by_wake: what can be claimed when its time comes. A suspect is looked for by itself.
status = 'waiting' AND owner IS NULL AND wake_at IS NOT NULL AND suspect = 0 AND paused = 0;

-- fragment: may_begin
-- The condition of stepwell_runs_pending: what can be claimed at once.
status = 'pending' AND queued = 0 AND suspect = 0 AND paused = 0;

-- fragment: suspect_may_wake
-- The same of suspects, by stepwell_runs_suspect.
suspect = 1 AND ended_at IS NULL AND status = 'waiting' AND owner IS NULL AND paused = 0;

-- fragment: suspect_may_begin
-- As above.
suspect = 1 AND ended_at IS NULL AND status = 'pending' AND owner IS NULL AND paused = 0;

-- fragment: is_progress
-- Of the journal: that the run has come further, so that what killed workers is behind it. That a step is under way is none,
-- and neither is a tick.
kind <> 'step_started' AND (op > 0 OR kind <> 'timer');

-- fragment: came_further
-- Of a run: that there was progress since it crashed last.
EXISTS (SELECT 1 FROM stepwell_journal WHERE run = key AND position > crash_position AND {is_progress});

-- fragment: suspect_under_way
-- A suspect that runs, and has not come further since it crashed last.
SELECT busy.id FROM stepwell_runs AS busy
WHERE busy.suspect = 1 AND busy.ended_at IS NULL AND busy.status = 'running' AND NOT EXISTS (
    SELECT 1 FROM stepwell_journal WHERE run = busy.key AND position > busy.crash_position
        AND {is_progress}
);
