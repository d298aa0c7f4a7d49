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

-- name: doctor_largest_entries
-- ?1 how many positions, ?2 how many rows. octet_length reads no overflow page.
SELECT run.id, entry.kind, entry.name, octet_length(entry.value) FROM stepwell_journal AS entry
JOIN stepwell_runs AS run ON run.key = entry.run
WHERE entry.position > (SELECT max(position) FROM stepwell_journal) - ?1 AND octet_length(entry.value) IS NOT NULL
ORDER BY 4 DESC LIMIT ?2;

-- name: doctor_entries_since
-- ?1 how many positions, ?2 since when: how many entries came since, of how many that were looked at.
SELECT count(*) FILTER (WHERE at >= ?2), count(*) FROM stepwell_journal
WHERE position > (SELECT max(position) FROM stepwell_journal) - ?1;

-- name: doctor_marks
-- ?1 how many positions: what payloads that are bytes begin with, as two hexadecimal digits each.
SELECT DISTINCT hex(substr(value, 1, 1)) FROM stepwell_journal
WHERE position > (SELECT max(position) FROM stepwell_journal) - ?1 AND typeof(value) = 'blob';

-- name: doctor_free_pages
SELECT (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_size FROM pragma_page_size);
