-- Since when a job has stood still although its worker lives; none while it moves.
ALTER TABLE jobs ADD COLUMN stalled_at timestamptz;
