-- Where the merchant is told of an order instead of at its endpoint.
ALTER TABLE internet_orders ADD COLUMN callback_url TEXT;
