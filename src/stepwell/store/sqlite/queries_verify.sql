-- What must be true of a file and no CHECK can say, because it spans tables. Each statement returns a row for each place
-- where it is not: which run, queue or worker. Used by verify.py, which has the sentence for each.

-- name: verify_running_without_worker
SELECT run.id FROM stepwell_runs AS run LEFT JOIN stepwell_workers AS worker ON worker.epoch = run.owner
WHERE run.owner IS NOT NULL AND worker.epoch IS NULL;

-- name: verify_queued_without_place
SELECT run.id FROM stepwell_runs AS run
WHERE run.queued = 1
    AND NOT EXISTS (SELECT 1 FROM stepwell_entries AS entry WHERE entry.run = run.key AND entry.op = 0);

-- name: verify_place_of_ended
SELECT run.id FROM stepwell_entries AS entry JOIN stepwell_runs AS run ON run.key = entry.run
WHERE run.ended_at IS NOT NULL AND entry.op = 0;

-- name: verify_place_in_other_queue
SELECT run.id FROM stepwell_entries AS entry JOIN stepwell_runs AS run ON run.key = entry.run
WHERE entry.op = 0 AND entry.queue IS NOT run.queue;

-- name: verify_queue_counts
SELECT queue.name FROM stepwell_queues AS queue
LEFT JOIN (
    SELECT queue, sum(state = 'delayed') AS delayed, sum(state = 'waiting') AS waiting, sum(state = 'running') AS running
    FROM stepwell_entries GROUP BY queue
) AS found ON found.queue = queue.name
LEFT JOIN (SELECT queue, count(*) AS number FROM stepwell_left_permits GROUP BY queue) AS apart
    ON apart.queue = queue.name
WHERE queue.delayed <> coalesce(found.delayed, 0)
    OR queue.waiting <> coalesce(found.waiting, 0)
    OR queue.running <> coalesce(found.running, 0) + coalesce(apart.number, 0);

-- name: verify_lane_counts
SELECT DISTINCT coalesce(lane.queue, found.queue) FROM (
    SELECT queue, partition, workflow, waiting FROM stepwell_lanes WHERE waiting > 0
) AS lane
FULL JOIN (
    SELECT entry.queue AS queue, entry.partition AS partition, entry.workflow AS workflow, count(*) AS waiting
    FROM stepwell_entries AS entry WHERE entry.state = 'waiting'
    GROUP BY entry.queue, entry.partition, entry.workflow
) AS found USING (queue, partition, workflow)
WHERE coalesce(lane.waiting, 0) <> coalesce(found.waiting, 0);

-- name: verify_recorded_twice
SELECT DISTINCT run.id FROM (
    SELECT entry.run AS run FROM stepwell_journal AS entry
    JOIN stepwell_journal_kinds AS kind ON kind.kind = entry.kind
    JOIN stepwell_runs AS run ON run.key = entry.run
    WHERE kind.delivered = 1 AND entry.op > 0 AND entry.position >= run.journal_from
    GROUP BY entry.run, entry.op HAVING count(*) > 1
) AS twice JOIN stepwell_runs AS run ON run.key = twice.run;

-- name: verify_wake_without_worker
SELECT run.id FROM stepwell_wakes AS wake JOIN stepwell_runs AS run ON run.key = wake.run WHERE run.owner IS NULL;

-- name: verify_child_before_parent
SELECT child.id FROM stepwell_runs AS child
WHERE child.parent IS NOT NULL AND child.attached = 1 AND child.ended_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM stepwell_runs AS run WHERE run.key = child.parent);

-- name: verify_followed
-- Only a run that was asked to stop, and has not ended, is to be followed by another start of its id.
SELECT run.id FROM stepwell_replacements AS following JOIN stepwell_runs AS run ON run.key = following.run
WHERE run.ended_at IS NOT NULL OR run.cancel_requested_at IS NULL;

-- name: verify_stream_offsets
SELECT run.id FROM stepwell_streams AS stream JOIN stepwell_runs AS run ON run.key = stream.run
WHERE EXISTS (
    SELECT 1 FROM stepwell_stream_items AS item WHERE item.stream = stream.key AND item.number < stream.first
) OR EXISTS (
    SELECT 1 FROM stepwell_stream_items AS item WHERE item.stream = stream.key AND item.number >= stream.next
)
UNION
SELECT run.id FROM (
    SELECT item.stream AS stream FROM stepwell_stream_items AS item GROUP BY item.stream, item.number HAVING count(*) > 1
) AS twice
JOIN stepwell_streams AS stream ON stream.key = twice.stream JOIN stepwell_runs AS run ON run.key = stream.run;

-- name: verify_promise_without_operation
-- Of earlier chapters none is open.
SELECT run.id FROM stepwell_promises AS promise JOIN stepwell_runs AS run ON run.key = promise.run
WHERE promise.state = 'open' AND run.ended_at IS NULL AND NOT EXISTS (
    SELECT 1 FROM stepwell_journal AS made WHERE made.run = run.key AND made.op = promise.op AND made.kind = 'promised'
        AND made.position >= run.journal_from
);

-- name: verify_payload_texts
-- Payloads that are text and no JSON; an empty one stands for None.
SELECT id FROM stepwell_runs WHERE
    (typeof(input) = 'text' AND NOT json_valid(input)) OR (typeof(result) = 'text' AND NOT json_valid(result))
    OR (typeof(error) = 'text' AND NOT json_valid(error))
UNION
SELECT run.id FROM stepwell_journal AS entry JOIN stepwell_runs AS run ON run.key = entry.run
WHERE typeof(entry.value) = 'text' AND NOT json_valid(entry.value)
UNION
SELECT run.id FROM stepwell_messages AS message JOIN stepwell_runs AS run ON run.key = message.run
WHERE (typeof(message.value) = 'text' AND NOT json_valid(message.value))
    OR (typeof(message.answer) = 'text' AND NOT json_valid(message.answer))
UNION
SELECT run.id FROM stepwell_values AS value JOIN stepwell_runs AS run ON run.key = value.run
WHERE typeof(value.value) = 'text' AND NOT json_valid(value.value)
UNION
SELECT run.id FROM stepwell_promises AS promise JOIN stepwell_runs AS run ON run.key = promise.run
WHERE (typeof(promise.form) = 'text' AND NOT json_valid(promise.form))
    OR (typeof(promise.answer) = 'text' AND NOT json_valid(promise.answer))
UNION
SELECT run.id FROM stepwell_stream_items AS item JOIN stepwell_streams AS stream ON stream.key = item.stream
JOIN stepwell_runs AS run ON run.key = stream.run
WHERE typeof(item.value) = 'text' AND NOT json_valid(item.value)
UNION
SELECT run.id FROM stepwell_settlements AS said JOIN stepwell_runs AS run ON run.key = said.run
WHERE typeof(said.value) = 'text' AND NOT json_valid(said.value)
UNION
SELECT run.id FROM stepwell_replacements AS following JOIN stepwell_runs AS run ON run.key = following.run
WHERE (typeof(following.input) = 'text' AND NOT json_valid(following.input)) OR NOT json_valid(following.entry)
UNION
SELECT run.id FROM stepwell_chapters AS chapter JOIN stepwell_runs AS run ON run.key = chapter.run
WHERE typeof(chapter.input) = 'text' AND NOT json_valid(chapter.input)
UNION
SELECT run.id FROM stepwell_batch_items AS item JOIN stepwell_runs AS run ON run.key = item.run
WHERE typeof(item.input) = 'text' AND NOT json_valid(item.input);

-- name: verify_blobs
-- The payloads that are bytes, with their runs: whoever asks tries to read them.
SELECT id, input FROM stepwell_runs WHERE typeof(input) = 'blob'
UNION ALL
SELECT id, result FROM stepwell_runs WHERE typeof(result) = 'blob'
UNION ALL
SELECT id, error FROM stepwell_runs WHERE typeof(error) = 'blob'
UNION ALL
SELECT run.id, entry.value FROM stepwell_journal AS entry JOIN stepwell_runs AS run ON run.key = entry.run
WHERE typeof(entry.value) = 'blob'
UNION ALL
SELECT run.id, message.value FROM stepwell_messages AS message JOIN stepwell_runs AS run ON run.key = message.run
WHERE typeof(message.value) = 'blob'
UNION ALL
SELECT run.id, message.answer FROM stepwell_messages AS message JOIN stepwell_runs AS run ON run.key = message.run
WHERE typeof(message.answer) = 'blob'
UNION ALL
SELECT run.id, value.value FROM stepwell_values AS value JOIN stepwell_runs AS run ON run.key = value.run
WHERE typeof(value.value) = 'blob'
UNION ALL
SELECT run.id, promise.form FROM stepwell_promises AS promise JOIN stepwell_runs AS run ON run.key = promise.run
WHERE typeof(promise.form) = 'blob'
UNION ALL
SELECT run.id, promise.answer FROM stepwell_promises AS promise JOIN stepwell_runs AS run ON run.key = promise.run
WHERE typeof(promise.answer) = 'blob'
UNION ALL
SELECT run.id, item.value FROM stepwell_stream_items AS item JOIN stepwell_streams AS stream ON stream.key = item.stream
JOIN stepwell_runs AS run ON run.key = stream.run
WHERE typeof(item.value) = 'blob'
UNION ALL
SELECT run.id, said.value FROM stepwell_settlements AS said JOIN stepwell_runs AS run ON run.key = said.run
WHERE typeof(said.value) = 'blob'
UNION ALL
SELECT run.id, following.input FROM stepwell_replacements AS following JOIN stepwell_runs AS run ON run.key = following.run
WHERE typeof(following.input) = 'blob'
UNION ALL
SELECT run.id, chapter.input FROM stepwell_chapters AS chapter JOIN stepwell_runs AS run ON run.key = chapter.run
WHERE typeof(chapter.input) = 'blob'
UNION ALL
SELECT run.id, item.input FROM stepwell_batch_items AS item JOIN stepwell_runs AS run ON run.key = item.run
WHERE typeof(item.input) = 'blob';

-- name: verify_foreign_keys
SELECT v."table" || ' row ' || coalesce(v.rowid, '?') || ' without its ' || v.parent
FROM sqlite_schema AS s, pragma_foreign_key_check(s.name) AS v
WHERE s.type = 'table' AND s.name LIKE 'stepwell\_%' ESCAPE '\';

-- name: count_of_stepwell_runs
SELECT count(*) FROM stepwell_runs;

-- name: count_of_stepwell_journal
SELECT count(*) FROM stepwell_journal;
