-- Weights of versions that nobody will serve again go after a while; the versions stay.
ALTER TABLE versions
    -- Kept whatever the policy says.
    ADD COLUMN pinned             boolean NOT NULL DEFAULT false,
    -- From when on its weights are not to be used any more; then whether their blob is gone, or another version's.
    ADD COLUMN weights_expired_at timestamptz,
    ADD COLUMN weights_deleted    boolean NOT NULL DEFAULT false,
    ADD CHECK (weights_expired_at IS NULL OR (state <> 'SERVING' AND NOT pinned)),
    ADD CHECK (weights_expired_at IS NOT NULL OR NOT weights_deleted);
CREATE INDEX versions_expired ON versions (id) WHERE weights_expired_at IS NOT NULL AND NOT weights_deleted;
-- Two versions may have the same weights: whose blob it is besides.
CREATE INDEX versions_by_blob ON versions (blob_key) WHERE blob_key IS NOT NULL AND weights_expired_at IS NULL;
