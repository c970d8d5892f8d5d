-- What became of an order and when, for whoever has to account for it. Nothing personal and no card in here.
CREATE TABLE order_events (
    id             INTEGER PRIMARY KEY NOT NULL,
    topup_id       TEXT NOT NULL REFERENCES internet_orders (topup_id),
    recorded_at    TEXT NOT NULL,
    -- order (it changed), notification (a channel was told, or not) or reveal (somebody asked for the card)
    kind           TEXT NOT NULL,
    -- order: what changed it, and its status; no status before where it is new
    cause          TEXT,
    status_before  TEXT,
    status_after   TEXT,
    next_check_at  TEXT,
    polls          INTEGER,
    -- notification: which event and which attempt; reveal: the channel of the link and which try
    outcome        TEXT,
    channel        TEXT,
    attempt        INTEGER,
    -- notification and reveal: how it went; order: why it is followed no longer
    result         TEXT,
    -- in words, without anything personal
    error          TEXT
);

CREATE INDEX order_events_by_order ON order_events (topup_id, id);
CREATE INDEX events_by_order ON events (topup_id);
CREATE INDEX orders_by_end ON internet_orders (coalesce(fulfilled_at, refunded_at))
    WHERE status IN ('FULFILLED', 'REFUNDED');
