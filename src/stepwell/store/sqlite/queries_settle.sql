-- The SQL of settlements: what people say of steps, until a worker takes it. Read by `named_sql`; used by
-- `sql/settlements.py`. Times are microseconds since the Unix epoch.

-- name: settled_run
-- ?1 run, ?2 operation. The run, its state, and whether that step has an outcome (by now).
SELECT id, status, EXISTS (
    SELECT 1 FROM stepwell_journal AS entry
    WHERE entry.run = ?1 AND entry.op = ?2 AND entry.position >= journal_from
        AND (entry.kind = 'step' OR entry.kind = 'step_failed')
)
FROM stepwell_runs WHERE key = ?1;

-- name: step_settled
-- ?1 run, ?2 operation, ?3 kind of the entry, ?4 value, ?5 at.
INSERT INTO stepwell_settlements (run, op, kind, value, at) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (run, op) DO UPDATE SET kind = excluded.kind, value = excluded.value, at = excluded.at;

-- name: settlement_taken
-- ?1 run, ?2 operation.
DELETE FROM stepwell_settlements WHERE run = ?1 AND op = ?2;

-- name: settlements_dropped
-- ?1 run, which goes back to an earlier point.
DELETE FROM stepwell_settlements WHERE run = ?1;

-- name: settlements
-- ?1 keys of runs as a JSON array. The columns are the run and the fields of model.run.Settlement.
SELECT run, op, kind, value FROM stepwell_settlements WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, op;

-- name: settlements_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_settlements WHERE run IN (SELECT value FROM json_each(?1));
