-- The links under which a customer may see a card once. Only the SHA-256 of a link's token is stored.
CREATE TABLE reveals (
    token_hash   TEXT PRIMARY KEY NOT NULL,
    topup_id     TEXT NOT NULL REFERENCES internet_orders (topup_id),
    channel      TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    expires_at   TEXT NOT NULL,
    tries        INTEGER NOT NULL,
    revealed_at  TEXT
);

CREATE INDEX reveals_by_order ON reveals (topup_id, channel);
