-- One turn of the loop: score, plan, label, train, evaluate, promote. Numbered per pool from 1.
CREATE TABLE rounds (
    id            uuid PRIMARY KEY,
    pool_id       uuid NOT NULL REFERENCES pools (id),
    number        bigint NOT NULL CHECK (number >= 1),
    state         text NOT NULL CHECK (state IN ('SCORING', 'PLANNING', 'LABELLING', 'TRAINING', 'DONE', 'FAILED')),
    -- The version that scores and plans this round, and the one its training made.
    version_id    uuid NOT NULL REFERENCES versions (id),
    result_version_id uuid REFERENCES versions (id),
    strategy      text NOT NULL,
    seed          bigint NOT NULL,
    fallback      text NOT NULL DEFAULT 'NONE',
    label_target  bigint NOT NULL,
    label_count   bigint NOT NULL DEFAULT 0,
    -- Answers the pool had when this round's training was asked for; later ones count for the next round.
    labels_total  bigint,
    -- Samples to score and done so far.
    score_total   bigint NOT NULL DEFAULT 0,
    score_done    bigint NOT NULL DEFAULT 0,
    planned       bigint NOT NULL DEFAULT 0,
    metrics       jsonb NOT NULL DEFAULT '{}',
    error         text,
    revision      bigint NOT NULL,
    created_at    timestamptz NOT NULL,
    planned_at    timestamptz,
    training_started_at timestamptz,
    done_at       timestamptz,
    UNIQUE (pool_id, number)
);
CREATE INDEX rounds_by_revision ON rounds (pool_id, revision);
-- At most one round of a pool takes labels for the next training.
CREATE UNIQUE INDEX rounds_open ON rounds (pool_id) WHERE state IN ('SCORING', 'PLANNING', 'LABELLING');

-- The ordered list of samples a round wants labelled, made once, before anybody asks for a batch.
CREATE TABLE plan_items (
    round_id      uuid NOT NULL REFERENCES rounds (id) ON DELETE CASCADE,
    rank          bigint NOT NULL,
    sample_id     uuid NOT NULL REFERENCES samples (id) ON DELETE CASCADE,
    arm           text NOT NULL CHECK (arm IN ('ACTIVE', 'RANDOM_CONTROL', 'RELABEL', 'EXTERNAL')),
    propensity    real NOT NULL,
    entropy       real,
    margin        real,
    value         real,
    coverage_gain real,
    -- What the scoring version would answer, as it stood when planned.
    prelabel      text,
    version_id    uuid NOT NULL REFERENCES versions (id),
    PRIMARY KEY (round_id, rank),
    UNIQUE (round_id, sample_id)
);
