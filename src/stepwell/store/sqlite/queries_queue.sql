-- The SQL of queues and limits. Read by `named_sql`; used by `queue_changes` and `queue_facts`.
-- Times are microseconds since the Unix epoch. "epoch" is that of the writing worker's claim.

-- name: queue_known
-- ?1 name. What entering and leaving need to know of it.
SELECT kind, declared, concurrency, partition_concurrency, rate_per, partition_rate_limit, partition_rate_per, paused,
    delayed, waiting, running, starts, tickets, last_start_at
FROM stepwell_queues WHERE name = ?1;

-- name: queue_declared
-- ?1 name, ?2 kind, ?3 declared, ?4 concurrency, ?5 per_worker, ?6 partition_concurrency, ?7 rate_limit, ?8 rate_per,
-- ?9 partition_per_worker, ?10 partition_rate_limit, ?11 partition_rate_per, ?12 at.
INSERT INTO stepwell_queues
    (name, kind, declared, concurrency, per_worker, partition_concurrency, rate_limit, rate_per, partition_per_worker,
    partition_rate_limit, partition_rate_per, changed_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT (name) DO UPDATE SET declared = excluded.declared, concurrency = excluded.concurrency,
    per_worker = excluded.per_worker, partition_concurrency = excluded.partition_concurrency,
    rate_limit = excluded.rate_limit, rate_per = excluded.rate_per,
    partition_per_worker = excluded.partition_per_worker, partition_rate_limit = excluded.partition_rate_limit,
    partition_rate_per = excluded.partition_rate_per, changed_at = excluded.changed_at;

-- name: queue_changed
-- ?1 name, ?2 concurrency, ?3 per_worker, ?4 partition_concurrency, ?5 rate_limit, ?6 rate_per, ?7 partition_per_worker,
-- ?8 partition_rate_limit, ?9 partition_rate_per, ?10 at.
UPDATE stepwell_queues SET concurrency = ?2, per_worker = ?3, partition_concurrency = ?4, rate_limit = ?5,
    rate_per = ?6, partition_per_worker = ?7, partition_rate_limit = ?8, partition_rate_per = ?9, changed_at = ?10
WHERE name = ?1;

-- name: queue_paused
-- ?1 name, ?2 paused, ?3 at.
UPDATE stepwell_queues SET paused = ?2, changed_at = ?3 WHERE name = ?1;

-- name: lanes_bounded
-- ?1 queue, ?2 partition_concurrency or NULL. Only partitions with something running can be at their bound.
UPDATE stepwell_lanes INDEXED BY stepwell_lanes_busy
SET blocked = (opens_at IS NOT NULL OR (?2 IS NOT NULL AND busy >= ?2))
WHERE queue = ?1 AND busy > 0;

-- name: partition_starts_logged
-- ?1 queue, ?2 at, ?3 runs as a JSON array.
INSERT INTO stepwell_partition_starts (queue, partition, at, run)
SELECT ?1, partition, ?2, run FROM stepwell_entries WHERE run IN (SELECT value FROM json_each(?3)) AND op = 0;

-- name: partition_starts_forgotten
-- ?1 queue, ?2 up to when.
DELETE FROM stepwell_partition_starts WHERE queue = ?1 AND at <= ?2;

-- name: partitions_opening
-- ?1 queue, ?2 now. Those that their rate blocks no longer, or not until the time that stands there.
SELECT DISTINCT partition FROM stepwell_lanes WHERE queue = ?1 AND opens_at IS NOT NULL AND opens_at <= ?2;

-- name: partitions_with_starts
-- ?1 queue. Those that a rate has to do with.
SELECT partition FROM stepwell_partition_starts WHERE queue = ?1
UNION SELECT partition FROM stepwell_lanes WHERE queue = ?1 AND opens_at IS NOT NULL;

-- name: partitions_rated
-- ?1 queue, ?2 partitions as a JSON array, ?3 how many may start in a window less one, ?4 its length, ?5
-- partition_concurrency or NULL. With as many starts in the window as may be, the oldest of them has to leave it first.
UPDATE stepwell_lanes AS lane SET
    opens_at = found.at,
    blocked = (found.at IS NOT NULL OR (?5 IS NOT NULL AND lane.busy >= ?5))
FROM (
    SELECT wanted.value AS partition, (
        SELECT at + ?4 FROM stepwell_partition_starts WHERE queue = ?1 AND partition = wanted.value
        ORDER BY at DESC LIMIT 1 OFFSET ?3
    ) AS at FROM json_each(?2) AS wanted
) AS found
WHERE lane.queue = ?1 AND lane.partition = found.partition;

-- name: partition_start_at
-- ?1 queue, ?2 partition, ?3 index.
SELECT at FROM stepwell_partition_starts WHERE queue = ?1 AND partition = ?2 ORDER BY at LIMIT 1 OFFSET ?3;

-- name: partition_opens_at
-- ?1 queue, ?2 partition. Until when its rate blocks it, NULL where it does not.
SELECT max(opens_at) FROM stepwell_lanes WHERE queue = ?1 AND partition = ?2;

-- name: held_by_partition
-- ?1 queue, ?2 epoch. How many runs of each of its partitions are in a worker's memory.
SELECT entry.partition, count(*) FROM stepwell_runs AS run INDEXED BY stepwell_runs_by_owner
CROSS JOIN stepwell_entries AS entry ON entry.run = run.key AND entry.op = 0
WHERE run.owner = ?2 AND run.owner IS NOT NULL AND run.queue = ?1 GROUP BY entry.partition;

-- name: starts_forgotten
-- ?1 queue, ?2 up to when.
DELETE FROM stepwell_starts WHERE queue = ?1 AND at <= ?2;

-- name: queue_counted
-- ?1 name, ?2 delayed, ?3 waiting, ?4 running, ?5 starts, ?6 more that are unconfirmed, ?7 tickets, ?8 last_start_at.
UPDATE stepwell_queues SET delayed = ?2, waiting = ?3, running = ?4, starts = ?5, unconfirmed = unconfirmed + ?6,
    tickets = ?7, last_start_at = ?8
WHERE name = ?1;

-- name: lanes_grown
-- ?1 [queue, partition, workflow, more waiting, turn] of each lane, as JSON. A new lane of a known partition is as the
-- others. Returns the queues, and how much waits in the lanes now.
INSERT INTO stepwell_lanes (queue, partition, workflow, waiting, busy, blocked, opens_at, turn)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3,
    coalesce((SELECT busy FROM stepwell_lanes WHERE queue = value ->> 0 AND partition = value ->> 1 LIMIT 1), 0),
    coalesce((SELECT blocked FROM stepwell_lanes WHERE queue = value ->> 0 AND partition = value ->> 1 LIMIT 1), 0),
    (SELECT opens_at FROM stepwell_lanes WHERE queue = value ->> 0 AND partition = value ->> 1 LIMIT 1),
    coalesce((SELECT turn FROM stepwell_lanes WHERE queue = value ->> 0 AND partition = value ->> 1 LIMIT 1),
        value ->> 4)
FROM json_each(?1) WHERE true
ON CONFLICT (queue, partition, workflow) DO UPDATE SET waiting = waiting + excluded.waiting
RETURNING queue, partition, workflow, waiting;

-- name: lanes_shrunk
-- ?1 [queue, partition, workflow, fewer waiting] of each lane, as JSON.
UPDATE stepwell_lanes AS lane SET waiting = lane.waiting - (change.value ->> 3)
FROM json_each(?1) AS change
WHERE lane.queue = change.value ->> 0 AND lane.partition = change.value ->> 1 AND lane.workflow = change.value ->> 2;

-- name: partitions_changed
-- ?1 [queue, partition, more running, turn or null, partition_concurrency or null] of each partition, as JSON.
UPDATE stepwell_lanes AS lane SET busy = lane.busy + (change.value ->> 2),
    turn = coalesce(change.value ->> 3, lane.turn),
    blocked = (lane.opens_at IS NOT NULL
        OR (change.value ->> 4 IS NOT NULL AND lane.busy + (change.value ->> 2) >= change.value ->> 4))
FROM json_each(?1) AS change
WHERE lane.queue = change.value ->> 0 AND lane.partition = change.value ->> 1;

-- name: idle_lanes_deleted
DELETE FROM stepwell_lanes INDEXED BY stepwell_lanes_idle
WHERE waiting = 0 AND busy = 0 AND partition <> '' AND opens_at IS NULL;

-- name: entered
-- The row is repeated by queries.ladder. OR FAIL for the reason given at entry_appended.
INSERT OR FAIL INTO stepwell_entries
    (run, op, queue, partition, workflow, priority, place, state, ready_at, dedup, latest_at, items)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: first_due
-- ?1 queue. When the first delayed entry is due.
SELECT min(ready_at) FROM stepwell_entries WHERE queue = ?1 AND state = 'delayed';

-- name: entry_of_dedup
-- ?1 queue, ?2 dedup. The run that has the key; whether its entry is debounced, and still waits.
SELECT run, workflow, state, latest_at FROM stepwell_entries
WHERE queue = ?1 AND dedup = ?2;

-- name: entry_put_off
-- ?1 run, ?2 ready_at. A debounced entry whose time has not come. It is never brought forward: a start that was made
-- earlier may be committed later.
UPDATE stepwell_entries SET ready_at = min(max(?2, ready_at), latest_at) WHERE run = ?1 AND op = 0 AND state = 'delayed';

-- name: input_replaced
-- ?1 run, ?2 input, ?3 fingerprint, ?4 at.
UPDATE stepwell_runs SET input = ?2, fingerprint = ?3, updated_at = ?4 WHERE key = ?1 AND queued = 1;

-- name: entry_that_collects
-- ?1 queue, ?2 workflow, ?3 partition.
SELECT run, items FROM stepwell_entries
WHERE queue = ?1 AND workflow = ?2 AND partition = ?3 AND items IS NOT NULL;

-- name: item_collected
-- ?1 run, ?2 input.
INSERT INTO stepwell_batch_items (run, number, input)
VALUES (?1, (SELECT 1 + coalesce(max(number), 0) FROM stepwell_batch_items WHERE run = ?1), ?2);

-- name: items_counted
-- ?1 run, ?2 items.
UPDATE stepwell_entries SET items = ?2 WHERE run = ?1 AND op = 0;

-- name: entry_ready
-- ?1 [run, place] of each entry as JSON. Those that waited for their time, or for items, wait for their turn now.
UPDATE stepwell_entries AS entry SET state = 'waiting', items = NULL, place = change.value ->> 1
FROM json_each(?1) AS change
WHERE entry.run = change.value ->> 0 AND entry.op = 0 AND entry.state = 'delayed';

-- name: entry_rescheduled
-- ?1 run, ?2 ready_at, ?3 state. A debounced one may be put off to that time by later starts as well.
UPDATE stepwell_entries SET ready_at = ?2, state = ?3, place = iif(?3 = 'delayed', 0, place), latest_at = max(latest_at, ?2)
WHERE run = ?1 AND op = 0 AND state <> 'running';

-- name: entries_due
-- ?1 queue, ?2 now, ?3 limit.
SELECT run, partition, workflow FROM stepwell_entries
WHERE queue = ?1 AND state = 'delayed' AND ready_at <= ?2 ORDER BY ready_at, run LIMIT ?3;

-- name: queued_runs_taken
-- ?1 keys as a JSON array, ?2 at, ?3 epoch.
UPDATE stepwell_runs SET status = 'running', queued = 0, owner = ?3, updated_at = ?2, reason = NULL,
    started_at = coalesce(started_at, ?2)
WHERE key IN (SELECT value FROM json_each(?1)) AND queued = 1 AND paused = 0;

-- name: lone_entry
-- ?1 queue. The only entry that waits in it; and the queue, with its settings as in queue_state.
SELECT entry.run, entry.partition, entry.workflow, queue.paused, queue.running,
    queue.concurrency, queue.per_worker, queue.partition_concurrency, queue.rate_limit, queue.rate_per,
    queue.partition_per_worker, queue.partition_rate_limit, queue.partition_rate_per
FROM stepwell_queues AS queue
CROSS JOIN stepwell_entries AS entry INDEXED BY stepwell_entries_waiting ON entry.queue = queue.name
WHERE queue.name = ?1 AND queue.kind = 'queue' AND queue.waiting = 1 AND entry.state = 'waiting';

-- name: idle_workers
-- ?1 queue and ?2 workflow, each as JSON, ?3 how many runs of a worker are looked at. Those who have as many are busy. As
-- text: to open the tables of JSON takes 16 us, and no name in quotes is a part of another one.
SELECT worker.epoch FROM stepwell_workers AS worker
WHERE worker.ended_at IS NULL AND worker.takes_work = 1 AND instr(worker.workflows, ?2) > 0
    AND (worker.queues IS NULL OR instr(worker.queues, ?1) > 0)
    AND (SELECT count(*) < ?3 AND total(status = 'running') = 0 FROM (
        SELECT run.status AS status FROM stepwell_runs AS run INDEXED BY stepwell_runs_by_owner
        WHERE run.owner = worker.epoch AND run.owner IS NOT NULL LIMIT ?3
    ))
ORDER BY worker.epoch;

-- name: entries_taken
-- ?1 runs as a JSON array.
UPDATE stepwell_entries SET state = 'running', dedup = iif(latest_at IS NULL, dedup, NULL)
WHERE run IN (SELECT value FROM json_each(?1)) AND op = 0 AND state = 'waiting'
RETURNING partition, workflow;

-- name: starts_logged
-- ?1 queue, ?2 at, ?3 runs as a JSON array.
INSERT INTO stepwell_starts (queue, at, run, op) SELECT ?1, ?2, value, 0 FROM json_each(?3);

-- name: start_logged
-- ?1 queue, ?2 at, ?3 run, ?4 op. The same attempt is logged once a microsecond at most.
INSERT INTO stepwell_starts (queue, at, run, op) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING;

-- name: entry_exists
-- ?1 run, ?2 op.
SELECT 1 FROM stepwell_entries WHERE run = ?1 AND op = ?2;

-- name: permits_granted
-- ?1 [run, op] of each as JSON, ?2 whether the limit has a rate.
UPDATE stepwell_entries AS entry SET state = 'running', start_unknown = ?2,
    holder = (SELECT owner FROM stepwell_runs WHERE key = entry.run)
FROM json_each(?1) AS permit
WHERE entry.run = permit.value ->> 0 AND entry.op = permit.value ->> 1 AND entry.state = 'waiting';

-- name: owners
-- ?1 keys as a JSON array.
SELECT key, owner FROM stepwell_runs WHERE key IN (SELECT value FROM json_each(?1));

-- name: start_confirmed
-- ?1 run, ?2 op. Returns the limit.
UPDATE stepwell_entries SET start_unknown = 0 WHERE run = ?1 AND op = ?2 AND start_unknown = 1 RETURNING queue;

-- name: entries_of_runs_left
-- ?1 runs as a JSON array. They have ended: what they held is free.
DELETE FROM stepwell_entries WHERE run IN (SELECT value FROM json_each(?1))
RETURNING run, op, queue, partition, workflow, state, start_unknown;

-- name: permit_kept
-- ?1 run, ?2 op, ?3 epoch.
UPDATE stepwell_entries SET holder = ?3 WHERE run = ?1 AND op = ?2 AND state = 'running';

-- name: permits_left
-- ?1 [run, op] of each as a JSON array, ?2 epoch. Another worker that carries the run on may need it again.
DELETE FROM stepwell_entries
WHERE (run, op) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1)) AND op > 0
    AND NOT EXISTS (SELECT 1 FROM stepwell_runs WHERE key = stepwell_entries.run AND owner <> ?2)
RETURNING run, op, queue, partition, workflow, state, start_unknown;

-- name: permit_left
-- ?1 run, ?2 op, ?3 epoch. As permits_left, but only of an attempt that was granted its permit.
DELETE FROM stepwell_entries
WHERE run = ?1 AND op = ?2 AND op > 0 AND state = 'running'
    AND NOT EXISTS (SELECT 1 FROM stepwell_runs WHERE key = stepwell_entries.run AND owner <> ?3)
RETURNING queue, start_unknown;

-- name: left_permit_entered
-- ?1 epoch, ?2 run, ?3 op, ?4 attempt, ?5 limit.
INSERT INTO stepwell_left_permits (worker, run, op, attempt, queue) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING;

-- name: left_permit_freed
-- ?1 epoch, ?2 run, ?3 op, ?4 attempt.
DELETE FROM stepwell_left_permits WHERE worker = ?1 AND run = ?2 AND op = ?3 AND attempt = ?4 RETURNING queue;

-- name: left_permits_of_worker_freed
-- ?1 epoch.
DELETE FROM stepwell_left_permits WHERE worker = ?1 RETURNING queue;

-- name: operations_with_permits
-- ?1 run.
SELECT op FROM stepwell_entries WHERE run = ?1 AND op > 0;

-- name: queue_state
-- ?1 name.
SELECT {queue_state} FROM stepwell_queues WHERE name = ?1;

-- name: queue_states
-- The same, of all of them.
SELECT {queue_state} FROM stepwell_queues ORDER BY name;

-- name: open_workflows
-- ?1 queue. Hops from workflow to workflow in the index, however many lanes each has.
WITH RECURSIVE found (workflow) AS (
    SELECT min(workflow) FROM stepwell_lanes WHERE queue = ?1 AND waiting > 0 AND blocked = 0
    UNION ALL
    SELECT (
        SELECT min(workflow) FROM stepwell_lanes
        WHERE queue = ?1 AND waiting > 0 AND blocked = 0 AND workflow > found.workflow
    ) FROM found WHERE found.workflow IS NOT NULL
)
SELECT workflow FROM found WHERE workflow IS NOT NULL;

-- name: open_lanes
-- ?1 queue, ?2 workflow, ?3 limit, ?4 partitions that are passed over, as a JSON array. How many starts a rate has to
-- heed is counted with each: of queues whose partitions have no rate there are none.
SELECT turn, partition, workflow, waiting, busy, (
    SELECT count(*) FROM stepwell_partition_starts AS start
    WHERE start.queue = lane.queue AND start.partition = lane.partition
) FROM stepwell_lanes AS lane
WHERE queue = ?1 AND workflow = ?2 AND waiting > 0 AND blocked = 0
    AND partition NOT IN (SELECT value FROM json_each(?4))
ORDER BY turn LIMIT ?3;

-- name: heads_of_lane
-- ?1 queue, ?2 workflow, ?3 partition, ?4 limit.
SELECT priority, place, run, op FROM stepwell_entries
WHERE queue = ?1 AND workflow = ?2 AND partition = ?3 AND state = 'waiting'
ORDER BY priority DESC, place LIMIT ?4;

-- name: heads_of_lanes
-- ?1 queue, ?2 [workflow, partition] of each lane as JSON, ?3 limit for each. For each lane, by its index there, an
-- array of its first entries.
SELECT lane.key, (
    SELECT json_group_array(json_array(head.priority, head.place, head.run, head.op)) FROM (
        SELECT priority, place, run, op FROM stepwell_entries
        WHERE queue = ?1 AND workflow = lane.value ->> 0 AND partition = lane.value ->> 1 AND state = 'waiting'
        ORDER BY priority DESC, place LIMIT ?3
    ) AS head
) FROM json_each(?2) AS lane;

-- name: start_at
-- ?1 queue, ?2 index.
SELECT at FROM stepwell_starts WHERE queue = ?1 ORDER BY at LIMIT 1 OFFSET ?2;

-- name: oldest_wait
-- ?1 queue. The oldest is found in the index alone, which is read as far as the queue goes: 7 ms for 100,000 that wait.
SELECT ready_at FROM stepwell_entries WHERE (run, op) = (
    SELECT run, op FROM stepwell_entries INDEXED BY stepwell_entries_waiting
    WHERE queue = ?1 AND state = 'waiting' ORDER BY run, op LIMIT 1
);

-- name: queued_runs
-- ?1 queue, ?2 partition or NULL, ?3 after key, ?4 limit. By way of the runs that are pending, whose index has them in
-- this order, so that all pages together read each once. The second line repeats the index's condition.
SELECT run.key, run.id FROM stepwell_runs AS run INDEXED BY stepwell_runs_by_status
CROSS JOIN stepwell_entries AS entry ON entry.run = run.key AND entry.op = 0
WHERE run.status = 'pending' AND (run.status = 'pending' OR run.status = 'halted' OR run.status = 'failed')
    AND run.key > ?3 AND run.queue = ?1 AND entry.queue = ?1 AND (?2 IS NULL OR entry.partition = ?2)
    AND (entry.state = 'waiting' OR entry.state = 'delayed')
ORDER BY run.key LIMIT ?4;

-- name: loaded_permits
-- ?1 keys as a JSON array.
SELECT run, op, queue, state = 'running', holder FROM stepwell_entries
WHERE run IN (SELECT value FROM json_each(?1)) AND op > 0;

-- name: loaded_items
-- ?1 keys as a JSON array.
SELECT run, input FROM stepwell_batch_items WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, number;

-- name: standing
-- ?1 run, ?2 op. How an entry stands; the columns are the fields of store.queueing.Standing.
SELECT queue, partition, workflow, state, ready_at, latest_at, items FROM stepwell_entries WHERE run = ?1 AND op = ?2;

-- name: partition_busy
-- ?1 queue, ?2 partition.
SELECT coalesce(max(busy), 0) FROM stepwell_lanes WHERE queue = ?1 AND partition = ?2;

-- name: halted_holders
-- ?1 queue, ?2 partition or NULL. The halted runs that keep a place in a queue, by age. Halted runs are few, so they are
-- looked at first. The second line repeats the index's condition.
SELECT run.id FROM stepwell_runs AS run INDEXED BY stepwell_runs_by_status
CROSS JOIN stepwell_entries AS entry ON entry.run = run.key AND entry.op = 0
WHERE run.status = 'halted' AND (run.status = 'pending' OR run.status = 'halted' OR run.status = 'failed')
    AND entry.queue = ?1 AND entry.state = 'running' AND (?2 IS NULL OR entry.partition = ?2)
ORDER BY run.key;

-- name: place_holders
-- ?1 queue, ?2 how many, ?3 partition or NULL. Runs that have a place in a queue and are not halted, by age: those in
-- memory, which are few, and those among the oldest entries, for a queue may have a million that wait.
SELECT id FROM stepwell_runs WHERE status <> 'halted' AND key IN (
    SELECT run.key FROM stepwell_runs AS run INDEXED BY stepwell_runs_by_owner
    CROSS JOIN stepwell_entries AS entry ON entry.run = run.key AND entry.op = 0
    WHERE run.owner IS NOT NULL AND entry.queue = ?1 AND entry.state = 'running'
        AND (?3 IS NULL OR entry.partition = ?3)
    UNION ALL
    SELECT run FROM (
        SELECT run, op, queue, state, partition FROM stepwell_entries ORDER BY run, op LIMIT 1000
    ) AS oldest
    WHERE op = 0 AND queue = ?1 AND state = 'running' AND (?3 IS NULL OR partition = ?3)
)
ORDER BY key LIMIT ?2;

-- name: permit_holders
-- ?1 limit, ?2 how many. Runs in memory that have a permit; those in memory are few.
SELECT run.id FROM stepwell_runs AS run INDEXED BY stepwell_runs_by_owner
CROSS JOIN stepwell_entries AS entry ON entry.run = run.key AND entry.op > 0
WHERE run.owner IS NOT NULL AND entry.queue = ?1 AND entry.state = 'running'
ORDER BY run.owner, run.key LIMIT ?2;

-- name: permits_kept_apart
-- ?1 limit. The runs whose attempts nobody waits for any more; a purged one is named by its key.
SELECT coalesce(run.id, left_one.run) FROM stepwell_left_permits AS left_one
LEFT JOIN stepwell_runs AS run ON run.key = left_one.run
WHERE left_one.queue = ?1 ORDER BY left_one.run;

-- name: held_by_worker
-- ?1 epoch, ?2 queue. How many runs of a queue are in a worker's memory.
SELECT count(*) FROM stepwell_runs AS run INDEXED BY stepwell_runs_by_owner
WHERE run.owner = ?1 AND run.owner IS NOT NULL AND run.queue = ?2;
