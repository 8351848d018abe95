-- KEYS: the administrators.
-- Returns 1 if there ever was one, else 0. PERSIST changes nothing, for the key has no TTL; a replica refuses it, as it
-- would refuse a change.
redis.call('PERSIST', KEYS[1])
return redis.call('EXISTS', KEYS[1])
