#!lua
-- Adds a name to the names of all users. KEYS: the names. ARGV: the name. Returns 1: added. 0: it was there.

return redis.call('ZADD', KEYS[1], 0, ARGV[1]) == 0 and unchanged(0) or 1
