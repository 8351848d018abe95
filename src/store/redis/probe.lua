-- KEYS: the administrators.
-- Returns 1 if there ever was one, else 0. PERSIST changes nothing, since the key has no TTL, but a replica rejects it.
redis.call('PERSIST', KEYS[1])
return redis.call('EXISTS', KEYS[1])
