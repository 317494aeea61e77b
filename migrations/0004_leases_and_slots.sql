-- The time-limited, tokened claim on a batch. One row per answered NextBatch that gave out something.
CREATE TABLE leases (
    id           uuid PRIMARY KEY,
    pool_id      uuid NOT NULL REFERENCES pools (id),
    annotator    text NOT NULL,
    request_id   text NOT NULL,
    -- sha256 of the request's meaning: the same request_id with other arguments is an error.
    fingerprint  bytea NOT NULL,
    token        uuid NOT NULL,
    expires_at   timestamptz NOT NULL,
    renewals     integer NOT NULL DEFAULT 0,
    released_at  timestamptz,
    -- Queries still out under this lease.
    held         integer NOT NULL,
    -- The first answer without its queries, and what these were, in order: replayed for every retry of the request.
    -- Samples and plan items never change, so the queries are read from there instead of being written twice.
    head         json NOT NULL,
    sample_ids   uuid[] NOT NULL,
    round_ids    uuid[] NOT NULL,
    created_at   timestamptz NOT NULL,
    UNIQUE (pool_id, request_id)
);
-- What an annotator holds now.
CREATE INDEX leases_live ON leases (pool_id, annotator, expires_at) WHERE held > 0 AND released_at IS NULL;

-- A slot is one annotator's place at one sample: a sample has as many slots as the pool's max_labels,
-- so that a sample beyond its overlap cannot be written down.
--
-- Leasing a slot is the hottest write of the service. It touches two columns, of which one index knows one;
-- who holds it stands in its lease, and no foreign key is checked.
CREATE TABLE slots (
    pool_id       uuid NOT NULL REFERENCES pools (id),
    sample_id     uuid NOT NULL REFERENCES samples (id) ON DELETE CASCADE,
    slot          smallint NOT NULL CHECK (slot BETWEEN 0 AND 31),
    round_id      uuid REFERENCES rounds (id),
    rank          bigint NOT NULL,
    -- PLANNED: may be handed out (again) once available_at has passed. LABELLED: holds an accepted answer.
    state         text NOT NULL CHECK (state IN ('PLANNED', 'LABELLED')),
    -- '-infinity' when free, the lease's expiry while leased.
    available_at  timestamptz NOT NULL DEFAULT '-infinity',
    lease_id      uuid,
    -- Who labelled it.
    annotator     text,
    label_id      uuid,
    PRIMARY KEY (sample_id, slot),
    CHECK ((state = 'LABELLED') = (label_id IS NOT NULL)),
    CHECK ((state = 'LABELLED') = (annotator IS NOT NULL)),
    CHECK ((state = 'PLANNED' AND lease_id IS NOT NULL) = (available_at > '-infinity'))
) WITH (
    fillfactor = 70,
    -- Every lease leaves a dead row at the head of the queue: cleaned up soon, so that the next claim starts at once.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05
);
-- The order in which work is handed out; what is leased lies apart, by expiry.
CREATE INDEX slots_queue ON slots (pool_id, available_at, rank, slot, sample_id) WHERE state = 'PLANNED';
-- Nobody labels the same sample twice.
CREATE UNIQUE INDEX slots_by_annotator ON slots (sample_id, annotator) WHERE annotator IS NOT NULL;

-- An annotator who skipped a sample does not see it again; others do.
CREATE TABLE skips (
    sample_id  uuid NOT NULL REFERENCES samples (id) ON DELETE CASCADE,
    annotator  text NOT NULL,
    reason     text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (sample_id, annotator)
);
