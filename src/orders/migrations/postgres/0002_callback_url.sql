-- The producer's own endpoint for this order, where it named one.
ALTER TABLE internet_orders ADD COLUMN callback_url TEXT;
