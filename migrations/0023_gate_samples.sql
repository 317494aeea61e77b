-- What the gate compares versions by, sample by sample.
ALTER TABLE samples
    -- In what a sample differs from the pool's usual ones ("noise", "size"); empty where it does not.
    ADD COLUMN slice   text NOT NULL DEFAULT '',
    -- Where the evidence of the reference answer is: [[x0, y0, x1, y1], ...] as fractions of the image.
    ADD COLUMN regions jsonb NOT NULL DEFAULT '[]';
ALTER TABLE control_curve
    -- How sure each answer was: float32, little-endian, as many as marks. Null where it was not kept.
    ADD COLUMN confidences bytea,
    -- One byte per sample whose evidence is known, up to a bound: 1 looked there, 0 elsewhere, 2 not read.
    ADD COLUMN pointing    bytea NOT NULL DEFAULT '';
