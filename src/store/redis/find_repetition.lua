#!lua flags=allow-oom
-- Finds the token that was issued for an Idempotency-Key. KEYS: the key of the Idempotency-Key. ARGV: the prefix of the
-- tokens' keys.
-- Returns the record of the Idempotency-Key, and the record of its token (nil: it is gone). nil: the key is unused.

return repetition(KEYS[1], ARGV[1]) or unchanged(false)
