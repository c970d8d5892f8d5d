-- What Redis alone knew of dead letters and of jobs: a Redis that has lost its data gets it back from here.
-- The reason of an order's dead letter, from the moment the order is given up until it is replayed, handed over again,
-- discarded, or has gone on.
ALTER TABLE internet_orders ADD COLUMN given_up TEXT;
ALTER TABLE internet_orders ADD COLUMN given_up_at TIMESTAMPTZ;
-- The operator has discarded the dead letter.
ALTER TABLE internet_orders ADD COLUMN discarded BOOLEAN NOT NULL DEFAULT FALSE;
-- Attempts and backoff of a failing recheck, as the producer set them.
ALTER TABLE internet_orders ADD COLUMN retry TEXT;
-- Failed attempts in a row of the job that follows the order.
ALTER TABLE internet_orders ADD COLUMN failed_attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN given_up_at TIMESTAMPTZ;
UPDATE notifications SET given_up_at = (SELECT max(recorded_at) FROM order_events noted
    WHERE noted.topup_id = notifications.topup_id AND noted.kind = 'notification'
        AND noted.outcome = notifications.outcome AND noted.incident = notifications.incident
        AND noted.channel = notifications.channel)
    WHERE status IN ('failed', 'refused');

CREATE INDEX orders_given_up ON internet_orders (given_up_at, topup_id) WHERE given_up IS NOT NULL;
-- Every search goes on from where it was, so that none sorts.
CREATE INDEX notifications_given_up ON notifications (event_id, channel) WHERE status IN ('failed', 'refused');
CREATE INDEX notifications_pending ON notifications (next_attempt_at, event_id, channel) WHERE status = 'pending';
CREATE INDEX orders_by_end_and_id ON internet_orders (coalesce(fulfilled_at, refunded_at), topup_id)
    WHERE status IN ('FULFILLED', 'REFUNDED');
-- The two above serve whatever used these.
DROP INDEX notifications_to_tell;
DROP INDEX orders_by_end;
