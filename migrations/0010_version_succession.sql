-- The number of the version that served when this one was promoted: where a rollback goes. Null for the base and for
-- versions that never served.
ALTER TABLE versions ADD COLUMN replaced bigint;
-- What is known of versions made before: the newest one below that served.
UPDATE versions v SET replaced = (
    SELECT max(o.number) FROM versions o WHERE o.pool_id = v.pool_id AND o.number < v.number AND o.state <> 'REFUSED')
WHERE v.number > 0 AND v.state <> 'REFUSED';
