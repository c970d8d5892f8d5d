-- An outcome can happen to an order again once an operator or a producer has it followed anew: each time is an
-- incident with an id of its own. While an incident is open, the same outcome about the same thing is no news.
ALTER TABLE events ADD COLUMN incident INTEGER NOT NULL DEFAULT 1;
ALTER TABLE events ADD COLUMN about TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN incident INTEGER NOT NULL DEFAULT 1;
ALTER TABLE order_events ADD COLUMN incident INTEGER NOT NULL DEFAULT 1;
-- The message of the inbox that last handed the order over.
ALTER TABLE internet_orders ADD COLUMN message_id TEXT;
