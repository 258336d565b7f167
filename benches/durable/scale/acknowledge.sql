-- The acknowledgement of what `claim.sql` has claimed.
DELETE FROM signals_delivery d USING unnest(:ids::text::bigint[], :claims::text::bigint[]) AS a (id, claim)
WHERE d.id = a.id AND d.claim = a.claim RETURNING d.id;
