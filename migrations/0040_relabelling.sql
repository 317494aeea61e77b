-- A sample whose label is doubted is opened again: it wants so many labels more than the pool's policy says.
ALTER TABLE samples ADD COLUMN extra_labels smallint NOT NULL DEFAULT 0 CHECK (extra_labels BETWEEN 0 AND 2);
-- Those that wait for them; few at any time.
CREATE INDEX samples_doubted ON samples (pool_id) WHERE extra_labels > 0 AND state = 'UNLABELLED';
