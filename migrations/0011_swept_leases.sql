-- A lease that ran out holds nothing once its places are back in the plan. Then leases_live has only what is out, with
-- its annotators first, and the second index of the same rows goes: with both, the planner read every live lease of the
-- pool to learn what one annotator holds.
DROP INDEX leases_by_expiry;
UPDATE leases l SET held = 0
WHERE held > 0 AND NOT EXISTS (SELECT 1 FROM slots s WHERE s.lease_id = l.id AND s.state = 'PLANNED');
