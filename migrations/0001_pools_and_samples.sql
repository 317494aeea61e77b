-- A pool is a named set of samples with one answer space and one policy.
CREATE TABLE pools (
    id              uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE CHECK (name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
    display_name    text NOT NULL DEFAULT '',
    -- Declared answers; empty means an open answer space.
    answers         text[] NOT NULL DEFAULT '{}',
    policy          jsonb NOT NULL,
    state           text NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'DELETING')),
    etag            uuid NOT NULL,
    -- Grows with every change a dashboard may want to see; the token of WatchRounds.
    revision        bigint NOT NULL DEFAULT 0,
    -- Answers taken so far, of all rounds and of none.
    label_count     bigint NOT NULL DEFAULT 0,
    -- A repeated CreatePool is known by these.
    request_id      text NOT NULL DEFAULT '',
    request_fingerprint bytea NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);

-- One image (or several) with one question. `name` is the client's id, unique in its pool.
CREATE TABLE samples (
    id               uuid PRIMARY KEY,
    pool_id          uuid NOT NULL REFERENCES pools (id),
    name             text NOT NULL,
    -- sha256 over everything that makes the sample what it is: same name and same content is a no-op.
    content_sha256   bytea NOT NULL,
    image_keys       text[] NOT NULL CHECK (cardinality(image_keys) > 0),
    question         text NOT NULL,
    choices          text[] NOT NULL DEFAULT '{}',
    group_name       text NOT NULL DEFAULT '',
    metadata         jsonb NOT NULL DEFAULT '{}',
    split            text NOT NULL CHECK (split IN ('POOL', 'VALIDATION', 'TEST')),
    reference_answer text,
    state            text NOT NULL DEFAULT 'UNLABELLED' CHECK (state IN ('UNLABELLED', 'LABELLED', 'REJECTED')),
    created_at       timestamptz NOT NULL,
    UNIQUE (pool_id, name),
    CHECK (split = 'POOL' OR reference_answer IS NOT NULL)
);
-- Keyset pages over all of a pool.
CREATE INDEX samples_by_pool ON samples (pool_id, id);
-- What wants labels.
CREATE INDEX samples_wanted ON samples (pool_id, id) WHERE split = 'POOL' AND state = 'UNLABELLED';
