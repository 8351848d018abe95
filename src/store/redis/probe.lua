-- Returns 1 if there ever was an administrator, else 0. Only a primary answers: a Redis replica rejects PERSIST, which
-- changes nothing here, since the key has no TTL.
-- KEYS: the administrators.
redis.call('PERSIST', KEYS[1])
return redis.call('EXISTS', KEYS[1])
