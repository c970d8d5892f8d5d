-- Deletes a dead letter with all that is known of it.
-- KEYS[1] queue   ARGV: id
-- Returns 1, or 0 where it is no dead letter.
return forget_dead_letter(KEYS[1], take())
