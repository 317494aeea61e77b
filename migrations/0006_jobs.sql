-- Background work. A job is claimed by raising its epoch; whoever holds an older epoch can commit nothing.
CREATE TABLE jobs (
    id            uuid PRIMARY KEY,
    pool_id       uuid NOT NULL REFERENCES pools (id),
    round_id      uuid REFERENCES rounds (id),
    kind          text NOT NULL CHECK (kind IN ('SCORE', 'PLAN', 'TRAIN', 'DELETE_POOL')),
    state         text NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    epoch         bigint NOT NULL DEFAULT 0,
    attempts      integer NOT NULL DEFAULT 0,
    max_attempts  integer NOT NULL,
    worker        text,
    heartbeat_at  timestamptz,
    run_after     timestamptz NOT NULL,
    cancel_requested boolean NOT NULL DEFAULT false,
    -- Why it was asked for: LABELS, TIME, REQUEST.
    trigger       text NOT NULL DEFAULT 'REQUEST',
    request_id    text,
    -- {"step", "total", "loss", ...}: what people see; and the blob of the last checkpoint.
    progress      jsonb NOT NULL DEFAULT '{}',
    checkpoint_key text,
    result_version_id uuid REFERENCES versions (id),
    error         text,
    created_at    timestamptz NOT NULL,
    started_at    timestamptz,
    finished_at   timestamptz
);
CREATE INDEX jobs_queue ON jobs (kind, run_after) WHERE state IN ('QUEUED', 'RUNNING');
-- Requests coalesce: one waiting and one running job of a kind per pool.
CREATE UNIQUE INDEX jobs_one_queued ON jobs (pool_id, kind) WHERE state = 'QUEUED';
CREATE UNIQUE INDEX jobs_one_running ON jobs (pool_id, kind) WHERE state = 'RUNNING';
CREATE INDEX jobs_by_pool ON jobs (pool_id, kind, id);
CREATE UNIQUE INDEX jobs_by_request ON jobs (pool_id, kind, request_id) WHERE request_id IS NOT NULL;
