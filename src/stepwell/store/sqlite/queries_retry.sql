-- The SQL of bringing ended runs back. Read by `named_sql`; used by `retries`. Times are microseconds since the Unix epoch.

-- name: queue_place_kept
-- ?1 run. Where it stands in a queue, before it loses its place.
UPDATE stepwell_runs SET queue_place = (
    SELECT json_array(partition, priority) FROM stepwell_entries WHERE run = ?1 AND op = 0
) WHERE key = ?1 AND queue IS NOT NULL;

-- name: ended_run
-- ?1 run. What decides whether and where it can go on; and whether it has more than a journal that goes back with it.
SELECT id, status, ended_at, workflow, queue, queue_place,
    EXISTS (SELECT 1 FROM stepwell_settlements WHERE run = ?1) OR EXISTS (SELECT 1 FROM stepwell_streams WHERE run = ?1)
    OR EXISTS (SELECT 1 FROM stepwell_progress WHERE run = ?1) OR EXISTS (SELECT 1 FROM stepwell_promises WHERE run = ?1)
FROM stepwell_runs WHERE key = ?1;

-- name: entries_undone
-- ?1 run, ?2 positions as a JSON array.
DELETE FROM stepwell_journal WHERE position IN (SELECT value FROM json_each(?2)) AND run = ?1;

-- name: run_retried
-- ?1 run, ?2 at, ?3 deadline_at, ?4 whether it stays cancelled, ?5 whether it stands in its queue again. It has made no
-- progress since this, as far as crashes are concerned.
UPDATE stepwell_runs SET
    status = 'pending', updated_at = ?2, ended_at = NULL, error = NULL, reason = NULL, queue_place = NULL,
    deadline_at = ?3, queued = ?5, crashes = 0, suspect = 0,
    crash_position = coalesce((SELECT max(position) FROM stepwell_journal WHERE run = ?1), 0),
    cancel_requested_at = iif(?4, cancel_requested_at, NULL), cancel_reason = iif(?4, cancel_reason, NULL)
WHERE key = ?1;

-- name: runs_uncancelled
-- ?1 keys as a JSON array. One that waits is due, if only because of the request: its code looks again, and finds nothing.
-- Not one that another start of its id is to follow: that was asked for by itself.
UPDATE stepwell_runs SET cancel_requested_at = NULL, cancel_reason = NULL
WHERE key IN (SELECT value FROM json_each(?1)) AND owner IS NULL AND ended_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM stepwell_replacements AS following WHERE following.run = key);

-- name: unreceived_messages
-- ?1 run. In order.
SELECT name, value, key, sent_at, sender FROM stepwell_messages WHERE run = ?1 AND taken_at IS NULL ORDER BY position;

-- name: key_of_taken_message
-- ?1 run, ?2 name, ?3 when it was taken. The first message with a key that was taken then, if it is not back already, nor
-- answered.
SELECT position, key FROM stepwell_messages
WHERE run = ?1 AND name = ?2 AND taken_at = ?3 AND answered_at IS NULL ORDER BY position LIMIT 1;

-- name: message_deleted
-- ?1 position.
DELETE FROM stepwell_messages WHERE position = ?1;

-- name: unreceived_messages_lifted
-- ?1 run. Those that nobody received make room for those that come before them.
DELETE FROM stepwell_messages WHERE run = ?1 AND taken_at IS NULL;

-- name: message_put_back
-- ?1 run, ?2 name, ?3 value, ?4 key, ?5 sent_at, ?6 sender. At the end: positions are never used again.
INSERT INTO stepwell_messages (run, name, value, key, sent_at, sender) VALUES (?1, ?2, ?3, ?4, ?5, ?6);
