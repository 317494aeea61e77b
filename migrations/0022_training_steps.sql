-- The curve of a training: what every optimiser step did. Rows are written in batches with a job's progress, and those
-- after the step from which an attempt goes on are written anew: the curve is that of the weights that resulted.
CREATE TABLE training_steps (
    job_id        uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    step          bigint NOT NULL CHECK (step > 0),
    -- What was minimised, nats per token.
    loss          double precision NOT NULL,
    -- Its parts by name, as far as the batch had them.
    parts         jsonb NOT NULL DEFAULT '{}',
    tokens        bigint NOT NULL,
    learning_rate double precision NOT NULL,
    -- Joint 2-norm before clipping.
    gradient_norm double precision NOT NULL,
    -- Waiting for the model included.
    seconds       double precision NOT NULL,
    PRIMARY KEY (job_id, step)
);
