-- The SQL of attributes, tags and notes. Read by `named_sql`; used by `descriptions` and `inspector`.

-- name: attribute_set
-- ?1 run, ?2 name, ?3 kind, ?4 value.
INSERT INTO stepwell_attributes (run, name, kind, value) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (run, name) DO UPDATE SET kind = excluded.kind, value = excluded.value;

-- name: attribute_removed
-- ?1 run, ?2 name.
DELETE FROM stepwell_attributes WHERE run = ?1 AND name = ?2;

-- name: tag_added
-- ?1 run, ?2 tag.
INSERT INTO stepwell_tags (run, tag) VALUES (?1, ?2) ON CONFLICT DO NOTHING;

-- name: tag_removed
-- ?1 run, ?2 tag.
DELETE FROM stepwell_tags WHERE run = ?1 AND tag = ?2;

-- name: note_recorded
-- ?1 run, ?2 at, ?3 act, ?4 by, ?5 reason. Of a run that has ended as well.
INSERT INTO stepwell_acts (at, act, run, by, reason) VALUES (?2, ?3, ?1, ?4, ?5);

-- name: attributes_of_runs
-- ?1 keys as a JSON array.
SELECT run, name, kind, value FROM stepwell_attributes WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, name;

-- name: tags_of_runs
-- ?1 keys as a JSON array.
SELECT run, tag FROM stepwell_tags WHERE run IN (SELECT value FROM json_each(?1)) ORDER BY run, tag;

-- name: places_of_runs
-- ?1 keys as a JSON array. Partition, priority and dedup key of those that stand in a queue; or stood in one, and may be retried.
SELECT run, nullif(partition, ''), priority, dedup FROM stepwell_entries
WHERE op = 0 AND run IN (SELECT value FROM json_each(?1))
UNION ALL
SELECT key, nullif(queue_place ->> 0, ''), queue_place ->> 1, NULL FROM stepwell_runs
WHERE key IN (SELECT value FROM json_each(?1)) AND queue_place IS NOT NULL;

-- name: parents_of_runs
-- ?1 keys as a JSON array. The ids of the parents of those that have one.
SELECT run.key, parent.id FROM stepwell_runs AS run JOIN stepwell_runs AS parent ON parent.key = run.parent
WHERE run.key IN (SELECT value FROM json_each(?1));

-- name: attempts_of_runs
-- ?1 keys as a JSON array. How often each was begun again.
SELECT run, count(*) FROM stepwell_acts
WHERE run IN (SELECT value FROM json_each(?1)) AND run IS NOT NULL AND act IN ('retry', 'rewind', 'restart')
GROUP BY run;

-- name: attribute_names
-- Jumps in the index from one name to the next, so that it reads no more than it returns.
WITH RECURSIVE found (name) AS (
    SELECT min(name) FROM stepwell_attributes
    UNION ALL
    SELECT (SELECT min(name) FROM stepwell_attributes WHERE name > found.name) FROM found WHERE found.name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL;

-- name: tag_names
-- ?1 how many. As above.
WITH RECURSIVE found (tag) AS (
    SELECT min(tag) FROM stepwell_tags
    UNION ALL
    SELECT (SELECT min(tag) FROM stepwell_tags WHERE tag > found.tag) FROM found WHERE found.tag IS NOT NULL
)
SELECT tag FROM found WHERE tag IS NOT NULL LIMIT ?1;

-- name: attributes_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_attributes WHERE run IN (SELECT value FROM json_each(?1));

-- name: tags_purged
-- ?1 keys of runs as a JSON array.
DELETE FROM stepwell_tags WHERE run IN (SELECT value FROM json_each(?1));
