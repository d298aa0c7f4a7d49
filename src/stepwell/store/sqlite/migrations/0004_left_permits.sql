-- Permits of attempts that nobody waits for any more and that go on all the same: a function in a thread cannot be stopped.

CREATE TABLE stepwell_left_permits (
    -- The epoch of the worker (stepwell_workers) that executes the attempt. When it ends, so do its attempts.
    worker INTEGER NOT NULL,
    -- The run may have ended, and may have been purged.
    run INTEGER NOT NULL,
    op INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    queue TEXT NOT NULL REFERENCES stepwell_queues (name),
    PRIMARY KEY (worker, run, op, attempt)
) STRICT, WITHOUT ROWID;
