-- Overdue orders are looked for oldest first: those that are polled apart from those that are rechecked, of which there
-- may be tens of thousands.
DROP INDEX orders_to_check;
CREATE INDEX orders_to_poll ON internet_orders (next_check_at, topup_id)
    WHERE next_check_at IS NOT NULL AND status = 'HANDLING';
CREATE INDEX orders_to_recheck ON internet_orders (next_check_at, topup_id)
    WHERE next_check_at IS NOT NULL AND status <> 'HANDLING';
