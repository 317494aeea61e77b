-- Requests for a training that were answered with one asked for before: their retries get the same one.
-- The request that made a job stands in the job.
CREATE TABLE training_requests (
    pool_id    uuid NOT NULL REFERENCES pools (id),
    request_id text NOT NULL,
    job_id     uuid NOT NULL,
    PRIMARY KEY (pool_id, request_id)
);
