-- What is out now, however many leases have run out before: for ListLeases, and for the label budget.
CREATE INDEX leases_by_expiry ON leases (pool_id, expires_at) WHERE held > 0 AND released_at IS NULL;
