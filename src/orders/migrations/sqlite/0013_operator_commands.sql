-- When an order was cancelled; nothing while it is followed. It has no next check then, and no queue gets it back.
ALTER TABLE internet_orders ADD COLUMN cancelled_at TEXT;
-- The message that last named each detail of an order, and the one that last said whether to follow it, as JSON; where
-- it is missing that is message_id for all that is stored. Messages are carried out in any order.
ALTER TABLE internet_orders ADD COLUMN named_by TEXT;
-- The customer's address and number as they are searched for: in lower case, and the digits alone.
ALTER TABLE internet_orders ADD COLUMN contact_email TEXT;
ALTER TABLE internet_orders ADD COLUMN contact_phone TEXT;

UPDATE internet_orders SET contact_email = lower(trim(json_extract(customer, '$.email')))
WHERE json_valid(customer) AND json_extract(customer, '$.email') IS NOT NULL;
UPDATE internet_orders SET contact_phone = replace(replace(replace(replace(replace(replace(
    json_extract(customer, '$.phone'), ' ', ''), '-', ''), '.', ''), '(', ''), ')', ''), '+', '00')
WHERE json_valid(customer) AND json_extract(customer, '$.phone') IS NOT NULL;
UPDATE internet_orders SET contact_phone = '0' || substr(contact_phone, 6) WHERE contact_phone LIKE '00213%';

-- In lower case, so that SQLite does not take it for the searches that have an index of their own for a status.
CREATE INDEX orders_by_status ON internet_orders (lower(status), topup_id);
CREATE INDEX orders_by_tracking ON internet_orders (tracked_at);
CREATE INDEX orders_by_reference ON internet_orders (topup_ref) WHERE topup_ref IS NOT NULL;
CREATE INDEX orders_by_number ON internet_orders (number) WHERE number IS NOT NULL;
CREATE INDEX orders_by_email ON internet_orders (contact_email) WHERE contact_email IS NOT NULL;
CREATE INDEX orders_by_phone ON internet_orders (contact_phone) WHERE contact_phone IS NOT NULL;
CREATE INDEX orders_left ON internet_orders (topup_id)
    WHERE next_check_at IS NULL AND status NOT IN ('FULFILLED', 'REFUNDED');
CREATE INDEX notifications_undelivered ON notifications (topup_id) WHERE status IN ('failed', 'refused');
CREATE INDEX events_without_channel ON events (topup_id) WHERE outcome = 'undelivered' AND NOT closed;
