-- Orders, the events they gave rise to, and who was told of them. Times are RFC 3339 in UTC.
CREATE TABLE internet_orders (
    topup_id         TEXT PRIMARY KEY NOT NULL,
    topup_ref        TEXT,
    status           TEXT NOT NULL,
    type             TEXT,
    number           TEXT,
    topup_amount     INTEGER,
    -- {"iv":…,"encryptedData":…,"authTag":…}, AES-256-GCM, as the provider's guide stores it
    card_code        TEXT,
    num_trans        TEXT,
    date_traitement  TEXT,
    customer         TEXT,
    metadata         TEXT,
    tracked_at       TEXT NOT NULL,
    polling_since    TEXT NOT NULL,
    polls            INTEGER NOT NULL,
    last_checked_at  TEXT,
    next_check_at    TEXT,
    scheduled_at     TEXT,
    fulfilled_at     TEXT,
    refunded_at      TEXT,
    delays           INTEGER NOT NULL,
    not_found        INTEGER NOT NULL,
    overdue          INTEGER NOT NULL,
    last_error       TEXT,
    -- counts the changes; a change based on an older one is refused
    version          INTEGER NOT NULL
);

-- The body of each event but for the card, which stays encrypted in its order.
CREATE TABLE events (
    event_id     TEXT PRIMARY KEY NOT NULL,
    topup_id     TEXT NOT NULL REFERENCES internet_orders (topup_id),
    outcome      TEXT NOT NULL,
    recorded_at  TEXT NOT NULL,
    body         TEXT NOT NULL
);

CREATE TABLE notifications (
    event_id         TEXT NOT NULL REFERENCES events (event_id),
    topup_id         TEXT NOT NULL,
    outcome          TEXT NOT NULL,
    channel          TEXT NOT NULL,
    -- pending, sent, failed (every attempt used) or refused (the receiver wants no more)
    status           TEXT NOT NULL,
    attempts         INTEGER NOT NULL,
    next_attempt_at  TEXT,
    sent_at          TEXT,
    last_error       TEXT,
    PRIMARY KEY (event_id, channel)
);

CREATE INDEX notifications_by_order ON notifications (topup_id);
CREATE INDEX notifications_to_tell ON notifications (next_attempt_at) WHERE status = 'pending';
CREATE INDEX orders_to_check ON internet_orders (next_check_at) WHERE next_check_at IS NOT NULL;
