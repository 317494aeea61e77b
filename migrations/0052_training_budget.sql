-- Time that a job's steps have taken over all its attempts, and why a training stopped before its last step.
ALTER TABLE jobs ADD COLUMN spent_seconds double precision NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN stopped_early text;
