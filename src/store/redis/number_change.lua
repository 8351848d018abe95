#!lua flags=allow-oom
-- Numbers a change that takes no administrator away. KEYS: the administrators. ARGV: the number to go beyond, since a failover
-- may have lost numbers that were given out.
-- Returns the number.

local change = math.max(tonumber(redis.call('HGET', KEYS[1], ':changes') or 0), tonumber(ARGV[1])) + 1
redis.call('HSET', KEYS[1], ':changes', change)
return change
