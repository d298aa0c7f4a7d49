-- The SQL of schedules. Read by named_sql.py; used by sql/schedules.py. Times are microseconds since the Unix epoch, by the
-- wall clock.

-- name: schedule_by_id
-- ?1 id. The columns are the fields of model.ScheduleRecord in their order, here and below.
SELECT id, workflow, due_at, paused, note, created_at, changed_at, definition, state, input
FROM stepwell_schedules WHERE id = ?1;

-- name: schedules_listed
-- ?1 id above, ?2 limit.
SELECT id, workflow, due_at, paused, note, created_at, changed_at, definition, state, NULL
FROM stepwell_schedules WHERE id > ?1 ORDER BY id LIMIT ?2;

-- name: schedules_due
-- ?1 now, ?2 limit.
SELECT id FROM stepwell_schedules WHERE due_at <= ?1 ORDER BY due_at LIMIT ?2;

-- name: next_schedule
SELECT min(due_at) FROM stepwell_schedules WHERE due_at IS NOT NULL;

-- name: schedule_saved
-- The columns of schedule_by_id.
INSERT INTO stepwell_schedules
    (id, workflow, due_at, paused, note, created_at, changed_at, definition, state, input)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT (id) DO UPDATE SET workflow = excluded.workflow, due_at = excluded.due_at, paused = excluded.paused,
    note = excluded.note, changed_at = excluded.changed_at, definition = excluded.definition, state = excluded.state,
    input = excluded.input;

-- name: schedule_advanced
-- ?1 id, ?2 due_at, ?3 paused, ?4 note, ?5 state: a tick changes no more.
UPDATE stepwell_schedules SET due_at = ?2, paused = ?3, note = ?4, state = ?5 WHERE id = ?1;

-- name: schedule_awaits
-- ?1 schedule, ?2 ids of runs as a JSON array.
INSERT OR IGNORE INTO stepwell_schedule_waits (run, schedule)
SELECT key, ?1 FROM stepwell_runs WHERE id IN (SELECT value FROM json_each(?2)) AND ended_at IS NULL;

-- name: schedule_waits_deleted
-- ?1 schedule.
DELETE FROM stepwell_schedule_waits WHERE schedule = ?1;

-- name: schedule_deleted
-- ?1 id.
DELETE FROM stepwell_schedules WHERE id = ?1;

-- name: schedules_made_due
-- ?1 a run that ended.
UPDATE stepwell_schedules SET due_at = 0 WHERE id IN (SELECT schedule FROM stepwell_schedule_waits WHERE run = ?1);

-- name: run_awaited_no_more
-- ?1 a run that ended.
DELETE FROM stepwell_schedule_waits WHERE run = ?1;
