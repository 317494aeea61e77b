-- What a round's plan is to value, decided before it is scored from what the rounds before it showed. `decision` holds
-- the evidence: the signals, the reasons, what was proposed. No decision, no stage: rounds made before, rounds that a
-- request opened for its training alone, pools whose policy does not adapt.
ALTER TABLE rounds
    ADD COLUMN stage    text CHECK (stage IN ('ALIGNMENT', 'BOUNDARY', 'REASONING')),
    -- The exponent of the value: 0 is coverage alone, 1 the full value.
    ADD COLUMN tau      double precision NOT NULL DEFAULT 1 CHECK (tau >= 0),
    ADD COLUMN decision jsonb,
    ADD CHECK (stage IS NULL OR decision IS NOT NULL);
-- The stage that people hold a pool at.
ALTER TABLE pools
    ADD COLUMN pinned_stage text CHECK (pinned_stage IN ('ALIGNMENT', 'BOUNDARY', 'REASONING'));
