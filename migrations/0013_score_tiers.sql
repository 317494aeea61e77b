-- Scores in tiers. Tier 0 is one direct answer of every sample; tier 1 looks at it in several views and wordings, tier
-- 2 lets the model reason several times: both for the samples where that pays. Whatever one step of a scoring writes is
-- a shard, numbered per version as it is committed: what a plan rested on is told by the number it saw last.
--
-- Embeddings leave the rows: a shard's are one blob, row-major float16, so that a plan over a million samples streams
-- files and not rows. Scores from before have theirs in the row; they are dropped here and made anew, which costs one
-- scoring and spares every plan from here on a second way to read.
TRUNCATE scores;

ALTER TABLE scores
    DROP COLUMN embedding,
    -- The deepest tier measured.
    ADD COLUMN tier         smallint NOT NULL DEFAULT 0 CHECK (tier BETWEEN 0 AND 2),
    -- Mutual informations of the answer and its sources, nats; null where not measured.
    ADD COLUMN model        real,
    ADD COLUMN visual       real,
    ADD COLUMN language     real,
    ADD COLUMN reasoning    real,
    -- Answer distributions of the model's members, float16 little-endian, members x classes, member-major; the classes
    -- are the sample's answer space in order. Null in an open space.
    ADD COLUMN members      smallint,
    ADD COLUMN probabilities bytea,
    -- Whether a client's own figures stand in the place of the model's, and the client's own value, where it gave one.
    ADD COLUMN imported     boolean NOT NULL DEFAULT false,
    ADD COLUMN value        real,
    -- Where its embedding lies, and which shards brought the deeper terms.
    ADD COLUMN shard        bigint,
    ADD COLUMN shard_row    integer,
    ADD COLUMN views_shard  bigint,
    ADD COLUMN chains_shard bigint,
    ADD CHECK ((shard IS NULL) = (error IS NOT NULL)),
    ADD CHECK ((shard IS NULL) = (shard_row IS NULL));
-- Plans read a version's scores in the order of their embeddings.
CREATE UNIQUE INDEX scores_by_place ON scores (version_id, shard, shard_row) WHERE shard IS NOT NULL;

CREATE TABLE score_shards (
    pool_id    uuid NOT NULL,
    version_id uuid NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
    shard      bigint NOT NULL CHECK (shard >= 0),
    tier       smallint NOT NULL CHECK (tier BETWEEN 0 AND 2),
    -- The embeddings of tier 0: content-addressed, rows x dim float16, little-endian. Null for deeper tiers.
    blob_key   text,
    rows       integer NOT NULL CHECK (rows >= 0),
    dim        integer NOT NULL CHECK (dim >= 0),
    -- Whether the embeddings are a client's own.
    imported   boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (version_id, shard),
    CHECK ((tier = 0) = (blob_key IS NOT NULL))
);

-- What was about to be planned from the dropped scores is scored again first.
UPDATE rounds r SET state = 'SCORING', score_done = 0, score_total = (
    SELECT count(*) FROM samples s WHERE s.pool_id = r.pool_id AND s.split = 'POOL' AND s.state <> 'REJECTED')
WHERE r.state IN ('PLANNING', 'LABELLING')
  AND EXISTS (SELECT 1 FROM jobs j WHERE j.round_id = r.id AND j.kind = 'PLAN' AND j.state IN ('QUEUED', 'RUNNING'))
  AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.pool_id = r.pool_id AND j.kind = 'SCORE' AND j.state IN ('QUEUED', 'RUNNING'));
UPDATE jobs j SET kind = 'SCORE'
WHERE j.kind = 'PLAN' AND j.state IN ('QUEUED', 'RUNNING')
  AND (SELECT r.state FROM rounds r WHERE r.id = j.round_id) = 'SCORING'
  AND NOT EXISTS (SELECT 1 FROM jobs o WHERE o.pool_id = j.pool_id AND o.kind = 'SCORE' AND o.state IN ('QUEUED', 'RUNNING'));
