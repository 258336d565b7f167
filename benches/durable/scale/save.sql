-- A save of a new row with one durable receiver: one statement, as the library sends it.
WITH _written AS (INSERT INTO "orders" ("customer", "cents") VALUES (:customer, :cents) RETURNING "orders"."id"),
_deliveries AS (INSERT INTO signals_delivery (event, receiver, signal, sender, key, created, payload, context, run_at, ordering_key, coalesce_key)
SELECT :event::uuid, 'shop::invoice'::text, 'post_save'::text, 'orders'::text, to_json(_written."id")::text, true, :payload::text::json,
:context::text::json, clock_timestamp(), NULL::text, NULL::text FROM _written WHERE true) SELECT "id" FROM _written;
