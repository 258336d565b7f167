-- The same row without a receiver.
INSERT INTO "orders" ("customer", "cents") VALUES (:customer, :cents) RETURNING "orders"."id";
