-- What `stepwell doctor` reads beside what everybody is shown: sizes, rates, what steps take. Of the journal only its last
-- ?1 positions, so that it answers at once whatever the file has. Used by file_facts.py. Times are microseconds.

-- name: schema
-- What makes the tables and views, as whoever opens the file with any tool sees it.
SELECT sql FROM sqlite_schema WHERE name GLOB 'stepwell_*' AND type IN ('table', 'view') ORDER BY type, name;

-- name: doctor_step_kinds
-- ?1 how many positions, ?2 how many rows.
SELECT name, count(*), avg(at - started_at), max(at - started_at) FROM stepwell_journal
WHERE position > (SELECT max(position) FROM stepwell_journal) - ?1 AND kind = 'step' AND started_at > 0
GROUP BY name ORDER BY 3 DESC LIMIT ?2;

-- name: doctor_largest_payloads
-- ?1 how many positions, and keys of runs, ?2 how many rows. octet_length reads no overflow page.
WITH entry AS (
  SELECT run, kind, name, octet_length(value) AS size FROM stepwell_journal
  WHERE position > (SELECT max(position) FROM stepwell_journal) - ?1 AND value IS NOT NULL ORDER BY size DESC LIMIT ?2
), own AS (
  SELECT id, workflow, max(ifnull(octet_length(input), 0), ifnull(octet_length(result), 0), ifnull(octet_length(error), 0))
    AS size, ifnull(octet_length(input), 0) AS input
  FROM stepwell_runs WHERE key > (SELECT max(key) FROM stepwell_runs) - ?1 ORDER BY size DESC LIMIT ?2
)
SELECT (SELECT id FROM stepwell_runs WHERE key = entry.run), kind, name, size FROM entry
UNION ALL SELECT id, CASE WHEN size = input THEN 'input' ELSE 'result' END, workflow, size FROM own WHERE size > 0
ORDER BY 4 DESC LIMIT ?2;

-- name: doctor_entries_since
-- ?1 how many positions, ?2 since when: how many entries came since, of how many that were looked at.
SELECT count(*) FILTER (WHERE at >= ?2), count(*) FROM stepwell_journal
WHERE position > (SELECT max(position) FROM stepwell_journal) - ?1;

-- name: doctor_marks
-- ?1 how many positions, and keys of runs: what payloads that are bytes begin with, as two hexadecimal digits each.
SELECT hex(substr(value, 1, 1)) FROM stepwell_journal
WHERE position > (SELECT max(position) FROM stepwell_journal) - ?1 AND typeof(value) = 'blob'
UNION SELECT hex(substr(input, 1, 1)) FROM stepwell_runs
WHERE key > (SELECT max(key) FROM stepwell_runs) - ?1 AND typeof(input) = 'blob'
UNION SELECT hex(substr(result, 1, 1)) FROM stepwell_runs
WHERE key > (SELECT max(key) FROM stepwell_runs) - ?1 AND typeof(result) = 'blob'
UNION SELECT hex(substr(error, 1, 1)) FROM stepwell_runs
WHERE key > (SELECT max(key) FROM stepwell_runs) - ?1 AND typeof(error) = 'blob';

-- name: doctor_free_pages
SELECT (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size);

-- What SQLite says of itself on this file, when it is asked; see `_PRAGMAS` of file_facts.py.

-- name: doctor_journal_mode
PRAGMA journal_mode;

-- name: doctor_page_size
PRAGMA page_size;

-- name: doctor_encoding
PRAGMA encoding;

-- name: doctor_auto_vacuum
PRAGMA auto_vacuum;

-- name: doctor_application_id
PRAGMA application_id;

-- name: doctor_user_version
PRAGMA user_version;

-- name: doctor_log_pages
-- Of the log: (busy, pages, of which are in the database as well); -1 where there is none. Nothing is folded in by it.
PRAGMA wal_checkpoint(NOOP);
