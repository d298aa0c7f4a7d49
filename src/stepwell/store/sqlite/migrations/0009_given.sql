-- A run that enters a queue can be given to a worker by whoever enqueues it.

-- 1: all that arrived for the run is its owner, who has to read it. What arrives besides is told as if there were no note.
ALTER TABLE stepwell_wakes ADD COLUMN given INTEGER NOT NULL DEFAULT 0 CHECK (given = 0 OR given = 1);
