-- The SQL of versions of workflows: which runs a worker leaves to others. Read by `named_sql`; used by `sql/ownership.py` and
-- by readers.

-- name: versions_served
-- Whether a live worker has any: asked with every claim, and where nobody has, a look at an empty index.
SELECT 1 FROM stepwell_workers INDEXED BY stepwell_workers_by_versions
WHERE ended_at IS NULL AND versions IS NOT NULL LIMIT 1;

-- name: versions_elsewhere
-- ?1 epoch. Workflow and version of those that other workers have, and this one has not.
SELECT DISTINCT each.value ->> 0, each.value ->> 1
FROM stepwell_workers AS worker INDEXED BY stepwell_workers_by_versions CROSS JOIN json_each(worker.versions) AS each
WHERE worker.ended_at IS NULL AND worker.versions IS NOT NULL AND worker.takes_work = 1 AND worker.epoch <> ?1
    AND each.value NOT IN (
        SELECT own.value FROM stepwell_workers AS mine CROSS JOIN json_each(mine.versions) AS own WHERE mine.epoch = ?1
    );

-- name: runs_of_versions
-- ?1 keys of runs, ?2 [workflow, version] of each as JSON. A JSON array of those of these runs that are of one of them.
SELECT json_group_array(run.key) FROM stepwell_runs AS run
WHERE run.key IN (SELECT value FROM json_each(?1)) AND run.version IS NOT NULL
    AND json_array(run.workflow, run.version) IN (SELECT json(value) FROM json_each(?2));

-- name: due_of_versions
-- As due; ?4: but for these versions.
SELECT json_group_array(json_array(wake_at, key)) FROM (
    SELECT wake_at, key FROM stepwell_runs
    WHERE {may_wake}
        AND workflow = ?1 AND wake_at <= ?2
        AND (version IS NULL OR version NOT IN (SELECT value FROM json_each(?4)))
    ORDER BY wake_at, key LIMIT ?3
);

-- name: pending_of_versions
-- As pending; ?3: but for these versions.
SELECT json_group_array(key) FROM (
    SELECT key FROM stepwell_runs
    WHERE {may_begin} AND workflow = ?1 AND (version IS NULL OR version NOT IN (SELECT value FROM json_each(?3)))
    ORDER BY key LIMIT ?2
);

-- name: run_versioned
-- ?1 run, ?2 version, ?3 epoch.
UPDATE stepwell_runs SET version = ?2 WHERE key = ?1 AND (owner IS NULL OR owner = ?3);

-- name: runs_by_version
-- How many runs in flight of each workflow are of each version.
SELECT workflow, version, count(*) FROM stepwell_runs INDEXED BY stepwell_runs_by_version
WHERE version IS NOT NULL AND ended_at IS NULL GROUP BY workflow, version ORDER BY workflow, version;
