CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE
);
CREATE TABLE products (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    about TEXT NOT NULL,
    price BIGINT NOT NULL,
    stock BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    user_id BIGINT NOT NULL REFERENCES users,
    product_id BIGINT NOT NULL REFERENCES products,
    quantity BIGINT NOT NULL,
    state TEXT NOT NULL,
    version BIGINT NOT NULL
);
CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY,
    user_id BIGINT,
    change TEXT NOT NULL
);
CREATE TABLE search_index (
    product_id BIGINT NOT NULL PRIMARY KEY REFERENCES products,
    words TEXT NOT NULL
);
