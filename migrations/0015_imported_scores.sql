-- Figures of samples that a client brings itself; a policy says whether selection uses them. One set per pool: what is
-- imported again takes the place of what was there, part by part.
CREATE TABLE imported_scores (
    pool_id     uuid NOT NULL,
    sample_id   uuid PRIMARY KEY REFERENCES samples (id) ON DELETE CASCADE,
    -- Nats.
    entropy     real,
    -- One less the gap between the two likeliest answers, in [0, 1].
    margin      real,
    -- Information value, nats.
    value       real,
    -- float16, little-endian; as long as every other of the pool.
    embedding   bytea,
    imported_at timestamptz NOT NULL
);
CREATE INDEX imported_scores_by_pool ON imported_scores (pool_id);
-- The length that the pool's imported embeddings have; null before the first.
ALTER TABLE pools ADD COLUMN imported_dim integer CHECK (imported_dim > 0);
