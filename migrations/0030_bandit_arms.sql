-- Which of the bandit's ways of choosing picked a sample of the active arm; null where the pool's strategy did alone,
-- and for the control arm.
ALTER TABLE plan_items
    ADD COLUMN bandit_arm text CHECK (bandit_arm IN ('COVERAGE', 'FULL_VALUE', 'REASONING', 'RANDOM'));
