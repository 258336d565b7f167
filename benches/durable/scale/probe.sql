-- How a worker asks which of its receivers have due deliveries.
SELECT r.name,
CASE WHEN EXISTS (SELECT 1 FROM signals_delivery d WHERE d.receiver = r.name AND d.ordering_key IS NULL AND
run_at >= timestamptz 'epoch' + (r.bound)::bigint * interval '1 microsecond' AND d.dead_at IS NULL AND d.run_at <= statement_timestamp()) THEN 1 ELSE 0 END,
CASE WHEN EXISTS (SELECT 1 FROM signals_delivery d WHERE d.receiver = r.name AND d.ordering_key IS NOT NULL) THEN 1 ELSE 0 END,
CASE WHEN EXISTS (SELECT 1 FROM (SELECT lost, worker, ordering_key FROM signals_delivery d WHERE d.receiver = r.name AND d.ordering_key IS NULL AND
run_at >= timestamptz 'epoch' + (r.bound)::bigint * interval '1 microsecond' AND d.dead_at IS NULL AND d.run_at <= statement_timestamp()
ORDER BY d.run_at, d.id LIMIT 128) AS next WHERE ordering_key IS NULL AND lost + CASE WHEN worker IS NULL THEN 0 ELSE 1 END >= 2) THEN 1 ELSE 0 END,
CASE WHEN EXISTS (SELECT 1 FROM signals_delivery d WHERE d.receiver = r.name AND d.dead_at IS NULL AND d.run_at <= statement_timestamp() AND
ordering_key IS NOT NULL AND worker IS NOT NULL AND lost >= 1) THEN 1 ELSE 0 END
FROM (SELECT value ->> 0 AS name, (value ->> 1)::bigint AS bound FROM json_array_elements(:names::text::json)) AS r;
