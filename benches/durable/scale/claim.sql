-- A claim of a worker. Its result is the input of `acknowledge.sql`. As in a worker, the next claim begins five seconds before the last claimed
-- delivery was due, and once a second with the oldest delivery. `run` replaces the number of deliveries.
WITH due AS MATERIALIZED (SELECT id, run_at FROM signals_delivery WHERE receiver = :receiver AND dead_at IS NULL
AND run_at <= statement_timestamp() AND ordering_key IS NULL AND lost + CASE WHEN worker IS NULL THEN 0 ELSE 1 END < 2
AND run_at >= timestamptz 'epoch' + (:bound)::bigint * interval '1 microsecond'
AND id NOT IN (SELECT unnest(:running::text::bigint[])) ORDER BY run_at, id LIMIT 64 FOR UPDATE SKIP LOCKED), claimed AS (
UPDATE signals_delivery d SET claim = d.claim + 1, attempt = d.attempt + CASE WHEN d.worker IS NULL THEN 1 ELSE 0 END,
lost = d.lost + CASE WHEN d.worker IS NULL THEN 0 ELSE 1 END, worker = :worker,
run_at = clock_timestamp() + :lease::bigint * interval '1 millisecond'
WHERE d.id = ANY(ARRAY(SELECT id FROM due))
RETURNING d.id, d.event::text, d.receiver, d.signal, d.sender, d.key, d.created, d.payload::text, d.context::text,
(extract(epoch FROM d.stored_at) * 1000)::bigint AS stored_at,
(extract(epoch FROM clock_timestamp() - d.stored_at) * 1000)::bigint AS age, d.attempt, d.claim, d.lost, d.ordering_key,
(SELECT (extract(epoch FROM max(run_at)) * 1000000)::bigint FROM due)
) SELECT coalesce('{' || string_agg(id::text, ',') || '}', '{}') AS ids, coalesce('{' || string_agg(claim::text, ',') || '}', '{}') AS claims,
CASE WHEN extract(epoch FROM clock_timestamp()) > :complete::numeric + 1 THEN 0 ELSE coalesce(max(int8) - 5000000, :bound::bigint) END AS bound,
CASE WHEN extract(epoch FROM clock_timestamp()) > :complete::numeric + 1 THEN extract(epoch FROM clock_timestamp()) ELSE :complete::numeric END AS complete
FROM claimed \gset
