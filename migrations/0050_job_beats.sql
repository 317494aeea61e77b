-- Whether a worker lives is told by whether its beats go on, as each observer counts time for itself: a clock that jumps,
-- or another machine's that is wrong, neither kills a job nor keeps a dead one.
ALTER TABLE jobs ADD COLUMN beats bigint NOT NULL DEFAULT 0;
-- A training learns from the labels up to its start. Where the clock went back meanwhile, that start is not before the
-- newest label.
ALTER TABLE pools ADD COLUMN newest_label_at timestamptz;
