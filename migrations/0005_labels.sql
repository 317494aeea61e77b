-- What annotators answered. Never updated but to be retracted; once acknowledged it stays.
CREATE TABLE labels (
    id              uuid PRIMARY KEY,
    pool_id         uuid NOT NULL REFERENCES pools (id),
    sample_id       uuid NOT NULL REFERENCES samples (id),
    client_label_id text NOT NULL,
    -- sha256 of the label's meaning: the same client_label_id with another payload is a conflict.
    fingerprint     bytea NOT NULL,
    annotator       text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('ANSWER', 'SKIP', 'REJECT')),
    -- The answer as written, and as compared in votes.
    answer          text,
    normalised      text,
    -- Steps, in order.
    reasoning       jsonb NOT NULL DEFAULT '[]',
    -- [[x0, y0, x1, y1], ...] as fractions of the image.
    regions         jsonb NOT NULL DEFAULT '[]',
    rejected        jsonb NOT NULL DEFAULT '[]',
    reason          text NOT NULL DEFAULT '',
    lead_time_ms    bigint,
    seen_version    bigint,
    lease_id        uuid,
    arm             text NOT NULL,
    round_id        uuid REFERENCES rounds (id),
    created_at      timestamptz NOT NULL,
    UNIQUE (pool_id, client_label_id),
    CHECK ((kind = 'ANSWER') = (answer IS NOT NULL))
);
CREATE INDEX labels_by_pool ON labels (pool_id, id);
CREATE INDEX labels_by_sample ON labels (sample_id, id);

-- The first answer to each SubmitLabels, replayed byte for byte.
CREATE TABLE submissions (
    pool_id      uuid NOT NULL REFERENCES pools (id),
    request_id   text NOT NULL,
    fingerprint  bytea NOT NULL,
    reply        json NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (pool_id, request_id)
);
