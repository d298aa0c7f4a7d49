-- The SQL of streams. Read by `named_sql`; used by `sql/streams.py`. Times are microseconds since the Unix epoch.

-- name: stream_extended
-- ?1 run, ?2 name, ?3 how many items, ?4 epoch, ?5 operation. Only the run's owner writes. Returns key and next offset.
INSERT INTO stepwell_streams (run, name, next, last_op)
SELECT key, ?2, ?3, ?5 FROM stepwell_runs WHERE key = ?1 AND owner = ?4
ON CONFLICT (run, name) DO UPDATE SET next = next + excluded.next, last_op = max(last_op, excluded.last_op)
RETURNING key, next, first;

-- name: stream_item_appended
-- The row is repeated by named_sql.ladder. OR FAIL as in entry_appended.
INSERT OR FAIL INTO stepwell_stream_items (stream, number, op, attempt, at, value) VALUES (?, ?, ?, ?, ?, ?);

-- name: stream_closed
-- ?1 key, ?2 operation, ?3 at.
UPDATE stepwell_streams SET closed_by = ?2, closed_at = ?3 WHERE key = ?1;

-- name: stream_of_run
-- ?1 run, ?2 name.
SELECT key, last_op FROM stepwell_streams WHERE run = ?1 AND name = ?2;

-- name: stream_op_superseded
-- ?1 stream, ?2 operation.
UPDATE stepwell_stream_items SET superseded = 1 WHERE stream = ?1 AND op = ?2 AND superseded = 0;

-- name: stream_op_reopened
-- ?1 stream, ?2 operation.
UPDATE stepwell_streams SET closed_by = NULL, closed_at = NULL WHERE key = ?1 AND closed_by = ?2;

-- name: streams_of_ops_superseded
-- ?1 run, ?2 operations as a JSON array.
UPDATE stepwell_stream_items SET superseded = 1
WHERE stream IN (SELECT key FROM stepwell_streams WHERE run = ?1) AND op IN (SELECT value FROM json_each(?2))
    AND superseded = 0;

-- name: streams_of_ops_reopened
-- ?1 run, ?2 operations as a JSON array.
UPDATE stepwell_streams SET closed_by = NULL, closed_at = NULL
WHERE run = ?1 AND closed_by IN (SELECT value FROM json_each(?2));

-- name: streams_undone
-- ?1 run, ?2 positions kept, as a JSON array. Of what the present chapter wrote, what no entry that is kept stands for.
UPDATE stepwell_stream_items SET superseded = 1
WHERE stream IN (SELECT key FROM stepwell_streams WHERE run = ?1) AND superseded = 0
    AND op > coalesce((SELECT ops_before FROM stepwell_chapters WHERE run = ?1 ORDER BY number DESC LIMIT 1), 0)
    AND op NOT IN (SELECT op FROM stepwell_journal WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1);

-- name: streams_reopened
-- ?1 run, ?2 positions kept, as a JSON array. As streams_undone.
UPDATE stepwell_streams SET closed_by = NULL, closed_at = NULL
WHERE run = ?1
    AND closed_by > coalesce((SELECT ops_before FROM stepwell_chapters WHERE run = ?1 ORDER BY number DESC LIMIT 1), 0)
    AND closed_by NOT IN (SELECT op FROM stepwell_journal WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1);

-- name: ops_at
-- ?1 run, ?2 positions as a JSON array. The operations of these entries, as one JSON array.
SELECT json_group_array(DISTINCT op) FROM stepwell_journal
WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1;

-- name: has_streams
-- ?1 run.
SELECT EXISTS (SELECT 1 FROM stepwell_streams WHERE run = ?1);

-- name: stream_items_deleted
-- ?1 stream, ?2 before which offset.
DELETE FROM stepwell_stream_items WHERE stream = ?1 AND number < ?2;

-- name: stream_shortened
-- ?1 stream, ?2 before which offset.
UPDATE stepwell_streams SET first = max(first, ?2) WHERE key = ?1;

-- name: evidence_of_item
-- ?1 position, ?2 stream, ?3 number. No offset of a stream is given out twice.
SELECT 1 FROM stepwell_stream_items WHERE position = ?1 AND stream = ?2 AND number = ?3;

-- name: stream
-- ?1 id of a run, ?2 name. The columns are the fields of store.streams.StreamFacts in their order.
SELECT run.key, run.status, coalesce(stream.key, 0), coalesce(stream.first, 0), coalesce(stream.next, 0), stream.closed_by,
    run.ahead, coalesce(stream.last_op, 0)
FROM stepwell_runs AS run LEFT JOIN stepwell_streams AS stream ON stream.run = run.key AND stream.name = ?2
WHERE run.id = ?1;

-- name: stream_items
-- ?1 run, ?2 name, ?3 first offset, ?4 how many, ?5 1: only what is not superseded. Not by the key of the stream: that may be
-- another run's by now, where the run was deleted.
SELECT number, value, op, attempt, at FROM stepwell_stream_items
WHERE stream = (SELECT key FROM stepwell_streams WHERE run = ?1 AND name = ?2) AND number >= ?3 AND superseded <= 1 - ?5
ORDER BY number LIMIT ?4;

-- name: stream_attempt
-- ?1 stream, ?2 operation. The last item has the highest.
SELECT coalesce(
    (SELECT attempt FROM stepwell_stream_items WHERE stream = ?1 AND op = ?2 ORDER BY number DESC LIMIT 1), 0
);

-- name: streams
-- ?1 run.
SELECT name, first, next, closed_by IS NOT NULL FROM stepwell_streams WHERE run = ?1 ORDER BY name;

-- name: stream_items_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_stream_items WHERE stream IN (
    SELECT key FROM stepwell_streams WHERE run IN (SELECT value FROM json_each(?1))
);

-- name: streams_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_streams WHERE run IN (SELECT value FROM json_each(?1));
