#!lua
-- Adds a name to those of all users. KEYS: the names. ARGV: the name.

return redis.call('ZADD', KEYS[1], 0, ARGV[1]) == 0 and unchanged(0) or 1
