#!lua flags=allow-oom
-- Removes a name from the names of all users. KEYS: the names. ARGV: the name. Returns 1: removed. 0: it was not there.

return redis.call('ZREM', KEYS[1], ARGV[1]) == 0 and unchanged(0) or 1
