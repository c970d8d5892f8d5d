-- Orders, the events they gave rise to, who was told of them, and what became of them when. The same tables as
-- on SQLite. Customers, metadata and bodies are texts: a body is told as it was stored, byte by byte.
CREATE TABLE internet_orders (
    topup_id         TEXT PRIMARY KEY,
    topup_ref        TEXT,
    status           TEXT NOT NULL,
    type             TEXT,
    number           TEXT,
    topup_amount     BIGINT,
    -- {"iv":…,"encryptedData":…,"authTag":…}, AES-256-GCM, as the provider's guide stores it
    card_code        TEXT,
    num_trans        TEXT,
    date_traitement  TEXT,
    customer         TEXT,
    metadata         TEXT,
    tracked_at       TIMESTAMPTZ NOT NULL,
    polling_since    TIMESTAMPTZ NOT NULL,
    polls            BIGINT NOT NULL,
    last_checked_at  TIMESTAMPTZ,
    next_check_at    TIMESTAMPTZ,
    scheduled_at     TIMESTAMPTZ,
    fulfilled_at     TIMESTAMPTZ,
    refunded_at      TIMESTAMPTZ,
    delays           BIGINT NOT NULL,
    not_found        BIGINT NOT NULL,
    overdue          BOOLEAN NOT NULL,
    last_error       TEXT,
    -- counts the changes; a change based on an older one is refused
    version          BIGINT NOT NULL
);

-- The body of each event but for the card, which stays encrypted in its order.
CREATE TABLE events (
    event_id     TEXT PRIMARY KEY,
    topup_id     TEXT NOT NULL REFERENCES internet_orders (topup_id),
    outcome      TEXT NOT NULL,
    recorded_at  TIMESTAMPTZ NOT NULL,
    body         TEXT NOT NULL
);

CREATE TABLE notifications (
    event_id         TEXT NOT NULL REFERENCES events (event_id),
    topup_id         TEXT NOT NULL,
    outcome          TEXT NOT NULL,
    channel          TEXT NOT NULL,
    -- pending, sent, failed (every attempt used) or refused (the receiver wants no more)
    status           TEXT NOT NULL,
    attempts         BIGINT NOT NULL,
    next_attempt_at  TIMESTAMPTZ,
    sent_at          TIMESTAMPTZ,
    last_error       TEXT,
    PRIMARY KEY (event_id, channel)
);

-- What became of an order and when, for whoever has to account for it. Nothing personal and no card in here.
CREATE TABLE order_events (
    id             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topup_id       TEXT NOT NULL REFERENCES internet_orders (topup_id),
    recorded_at    TIMESTAMPTZ NOT NULL,
    -- order (it changed), notification (a channel was told, or not) or reveal (somebody asked for the card)
    kind           TEXT NOT NULL,
    -- order: what changed it, and its status; no status before where it is new
    cause          TEXT,
    status_before  TEXT,
    status_after   TEXT,
    next_check_at  TIMESTAMPTZ,
    polls          BIGINT,
    -- notification: which event and which attempt; reveal: the channel of the link and which try
    outcome        TEXT,
    channel        TEXT,
    attempt        BIGINT,
    -- notification and reveal: how it went; order: why it is followed no longer
    result         TEXT,
    -- in words, without anything personal
    error          TEXT
);

-- The links under which a customer may see a card once. Only the SHA-256 of a link's token is stored.
CREATE TABLE reveals (
    token_hash   TEXT PRIMARY KEY,
    topup_id     TEXT NOT NULL REFERENCES internet_orders (topup_id),
    channel      TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    expires_at   TIMESTAMPTZ NOT NULL,
    tries        BIGINT NOT NULL,
    revealed_at  TIMESTAMPTZ
);

CREATE INDEX events_by_order ON events (topup_id);
CREATE INDEX notifications_by_order ON notifications (topup_id);
CREATE INDEX notifications_to_tell ON notifications (next_attempt_at) WHERE status = 'pending';
CREATE INDEX order_events_by_order ON order_events (topup_id, id);
CREATE INDEX orders_to_check ON internet_orders (next_check_at) WHERE next_check_at IS NOT NULL;
CREATE INDEX orders_by_end ON internet_orders (coalesce(fulfilled_at, refunded_at))
    WHERE status IN ('FULFILLED', 'REFUNDED');
CREATE INDEX reveals_by_order ON reveals (topup_id, channel);
