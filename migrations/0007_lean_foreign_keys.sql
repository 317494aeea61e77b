-- Foreign keys that cost more than they protect. Each of these made the purge of a pool look through a whole table for
-- every row it deleted, because no index leads with its column; an index for each would be paid for by every score,
-- plan and label written, as the check itself is. What they promised holds by how the rows live: their ids are read
-- from the tables they point at, and samples, rounds and versions go only with their pool, whose purge takes these rows
-- first. What such a purge might miss goes along with its version (scores), round (plan items) or sample (slots).
ALTER TABLE scores
    DROP CONSTRAINT scores_sample_id_fkey,
    DROP CONSTRAINT scores_pool_id_fkey;
ALTER TABLE plan_items
    DROP CONSTRAINT plan_items_sample_id_fkey,
    DROP CONSTRAINT plan_items_version_id_fkey;
ALTER TABLE slots
    DROP CONSTRAINT slots_round_id_fkey,
    DROP CONSTRAINT slots_pool_id_fkey;
ALTER TABLE labels
    DROP CONSTRAINT labels_round_id_fkey;
