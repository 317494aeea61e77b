-- How many labels a random policy would have needed: every version beside its shadow, which learnt from the random
-- control arm alone, on the same validation samples. A shadow has no version and no weights; only its figures stay.
CREATE TABLE control_curve (
    version_id    uuid PRIMARY KEY REFERENCES versions (id) ON DELETE CASCADE,
    -- The round that made the version; null for the base.
    round_id      uuid,
    -- One byte per validation sample in the order of ids: 1 right, 0 wrong, 2 not read.
    marks         bytea NOT NULL,
    -- The shadow's: answers it learnt from, samples it has right, of so many. Null until it is trained.
    labels        bigint CHECK (labels > 0),
    right_count   bigint CHECK (right_count <= of_count),
    of_count      bigint,
    control_marks bytea,
    shadowed_at   timestamptz,
    CHECK (num_nulls(labels, right_count, of_count, control_marks, shadowed_at) IN (0, 5))
);
-- What a round's training came to: what its labels saved, and whether more of them pay.
ALTER TABLE rounds
    ADD COLUMN savings jsonb,
    ADD COLUMN advice  jsonb;
ALTER TABLE jobs
    DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('SCORE', 'PLAN', 'TRAIN', 'SHADOW', 'DELETE_POOL'));
