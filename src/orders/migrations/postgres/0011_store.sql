-- Which store this is: one row. Workers whose databases differ must not share a prefix in Redis.
CREATE TABLE topup_store (
    store_id         TEXT NOT NULL,
    -- A program that knows no migration of at least this number must not use the tables.
    least_migration  BIGINT NOT NULL
);

INSERT INTO topup_store (store_id, least_migration) VALUES (replace(gen_random_uuid()::text, '-', ''), 0);

-- Fingerprints of the keys that cards may be encrypted with. A key cannot be computed from its fingerprint.
CREATE TABLE store_keys (
    fingerprint  TEXT PRIMARY KEY
);
