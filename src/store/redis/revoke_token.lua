#!lua flags=allow-oom
-- Ends a token, even where Redis is out of memory. KEYS: the token, the index. ARGV: its id.
-- Returns 1: it is gone. 0: there was none.

local deleted = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return deleted
