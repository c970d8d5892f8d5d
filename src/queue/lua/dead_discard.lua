-- Deletes a dead letter with its payload and its history.
-- KEYS[1] queue
-- ARGV[1] id
-- Returns 1, or 0 if there is no such dead letter.
return forget_dead_letter(KEYS[1], take())
