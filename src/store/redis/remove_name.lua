#!lua flags=allow-oom
-- Takes a name out of those of all users. KEYS: the names. ARGV: the name.

return redis.call('ZREM', KEYS[1], ARGV[1]) == 0 and unchanged(0) or 1
