-- Looks at a part of the image, and at the question without it.
ALTER TABLE scores
    -- How far the answer moves when the image is hidden: its divergence from the answer to the question alone, nats.
    ADD COLUMN image_nats real,
    -- The most entropy that zooming into the image removes, nats; below nought where every zoom adds some.
    ADD COLUMN zoom_gain  real;
ALTER TABLE plan_items
    ADD COLUMN image_nats real,
    ADD COLUMN zoom_gain  real;
