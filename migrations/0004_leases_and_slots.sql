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
    -- The first answer, replayed for every retry of the same request.
    reply        json NOT NULL,
    created_at   timestamptz NOT NULL,
    UNIQUE (pool_id, request_id)
);
CREATE INDEX leases_live ON leases (pool_id, expires_at) WHERE released_at IS NULL;

-- A slot is one annotator's place at one sample: a sample has as many slots as the pool's max_labels,
-- so that a sample beyond its overlap cannot be written down.
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
    lease_id      uuid REFERENCES leases (id),
    annotator     text,
    label_id      uuid,
    PRIMARY KEY (sample_id, slot),
    CHECK ((state = 'LABELLED') = (label_id IS NOT NULL)),
    CHECK ((lease_id IS NULL) OR (annotator IS NOT NULL))
) WITH (fillfactor = 70);
-- The order in which work is handed out.
CREATE INDEX slots_queue ON slots (pool_id, rank, slot) WHERE state = 'PLANNED';
CREATE INDEX slots_by_lease ON slots (lease_id) WHERE lease_id IS NOT NULL;
-- Nobody labels the same sample twice.
CREATE UNIQUE INDEX slots_by_annotator ON slots (sample_id, annotator) WHERE annotator IS NOT NULL;
CREATE INDEX slots_held ON slots (pool_id, annotator, available_at) WHERE state = 'PLANNED' AND annotator IS NOT NULL;

-- An annotator who skipped a sample does not see it again; others do.
CREATE TABLE skips (
    sample_id  uuid NOT NULL REFERENCES samples (id) ON DELETE CASCADE,
    annotator  text NOT NULL,
    reason     text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (sample_id, annotator)
);
