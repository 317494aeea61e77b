-- Every term that a planned sample was valued by, in nats, so that its value can be explained without the scores.
ALTER TABLE plan_items
    ADD COLUMN model     real,
    ADD COLUMN visual    real,
    ADD COLUMN language  real,
    ADD COLUMN reasoning real,
    -- The information value that a label was expected to have.
    ADD COLUMN total     real,
    -- Whether one of the terms was estimated from tier 0 and not measured.
    ADD COLUMN imputed   boolean NOT NULL DEFAULT false;
-- How the round's samples were scored and chosen: all that a replay needs, and that people ask for.
ALTER TABLE rounds ADD COLUMN provenance jsonb NOT NULL DEFAULT '{}';
