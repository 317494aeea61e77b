-- Immutable, numbered weights: base plus what training changed. Number 0 is the base and has no blob.
CREATE TABLE versions (
    id           uuid PRIMARY KEY,
    pool_id      uuid NOT NULL REFERENCES pools (id),
    number       bigint NOT NULL CHECK (number >= 0),
    state        text NOT NULL CHECK (state IN ('SERVING', 'RETIRED', 'REFUSED')),
    -- Content-addressed key of the trained tensors; null for the base.
    blob_key     text,
    base_sha256  text NOT NULL,
    round        bigint,
    training_id  uuid,
    label_count  bigint NOT NULL DEFAULT 0,
    -- Evaluation on the validation and test splits, and the gate's reasons.
    validation   jsonb,
    test         jsonb,
    gate         jsonb,
    created_at   timestamptz NOT NULL,
    promoted_at  timestamptz,
    UNIQUE (pool_id, number),
    CHECK (number = 0 OR blob_key IS NOT NULL)
);
-- Exactly one version serves a pool.
CREATE UNIQUE INDEX versions_serving ON versions (pool_id) WHERE state = 'SERVING';

-- What a version thought of a sample. Idempotent per sample and version.
CREATE TABLE scores (
    pool_id      uuid NOT NULL REFERENCES pools (id),
    sample_id    uuid NOT NULL REFERENCES samples (id) ON DELETE CASCADE,
    version_id   uuid NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    -- Null where the sample could not be scored; `error` says why.
    entropy      real,
    margin       real,
    best_answer  text,
    confidence   real,
    -- float16, little-endian.
    embedding    bytea,
    error        text,
    scored_at    timestamptz NOT NULL,
    PRIMARY KEY (version_id, sample_id),
    CHECK ((entropy IS NULL) = (error IS NOT NULL))
);
