#!lua flags=allow-oom
-- Ends a token, even where Redis is out of memory. KEYS: the token, the index. ARGV: its id, what its record must hold as
-- the digest of its JWT ('' for anything).
-- Returns 1: it is gone. 0: there was none.

if ARGV[2] ~= '' then
  local record = redis.call('GET', KEYS[1])
  if not record or cjson.decode(record).h ~= ARGV[2] then
    return 0
  end
end
local deleted = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return deleted
