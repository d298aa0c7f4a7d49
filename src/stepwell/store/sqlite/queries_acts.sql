-- The SQL of acts: who did what to runs and queues, and why. Read by named_sql.py; used by sql/acts.py. Times
-- are microseconds since the Unix epoch.

-- name: run_act_recorded
-- ?1 id of the run, ?2 at, ?3 act, ?4 by, ?5 reason. Nothing happens to a run that has ended: nothing was done to it.
INSERT INTO stepwell_acts (at, act, run, by, reason)
SELECT ?2, ?3, key, ?4, ?5 FROM stepwell_runs WHERE id = ?1 AND ended_at IS NULL;

-- name: queue_act_recorded
-- ?1 name of the queue, ?2 at, ?3 act, ?4 by, ?5 reason.
INSERT INTO stepwell_acts (at, act, queue, by, reason) VALUES (?2, ?3, ?1, ?4, ?5);

-- name: run_acts_forgotten
-- ?1 act, ?2 how many are kept of its run.
DELETE FROM stepwell_acts WHERE id IN (
    SELECT id FROM stepwell_acts WHERE run = (SELECT run FROM stepwell_acts WHERE id = ?1)
    ORDER BY id DESC LIMIT -1 OFFSET ?2
);

-- name: queue_acts_forgotten
-- ?1 act, ?2 how many are kept of its queue.
DELETE FROM stepwell_acts WHERE id IN (
    SELECT id FROM stepwell_acts WHERE queue = (SELECT queue FROM stepwell_acts WHERE id = ?1)
    ORDER BY id DESC LIMIT -1 OFFSET ?2
);

-- name: takeovers_recorded
-- ?1 epoch of the worker that had the runs, ?2 now, ?3 by, ?4 reason. One statement for all of them; what is too old is
-- forgotten with the next act on the run.
INSERT INTO stepwell_acts (at, act, run, by, reason)
SELECT ?2, 'takeover', key, ?3, ?4 FROM stepwell_runs WHERE owner = ?1 AND owner IS NOT NULL ORDER BY key;

-- name: worker_named
-- ?1 epoch.
SELECT pid, host FROM stepwell_workers WHERE epoch = ?1;

-- name: acts_of_run
-- ?1 key of the run. The columns are the fields of model.ActRecord in their order, here and below; the oldest first.
SELECT at, act, by, reason FROM stepwell_acts WHERE run = ?1 ORDER BY id;

-- name: acts_of_queue
-- ?1 name of the queue.
SELECT at, act, by, reason FROM stepwell_acts WHERE queue = ?1 ORDER BY id;

-- name: acts_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_acts WHERE run IN (SELECT value FROM json_each(?1));
