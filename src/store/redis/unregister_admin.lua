#!lua flags=allow-oom
-- Takes a user out of the enabled administrators, unless nobody would be left, and numbers the change: the first half of
-- disabling, demoting or removing an administrator, even where Redis is out of memory.
-- KEYS: the administrators. ARGV: the user's name, '1' where the user was seen to be one, the number to go beyond.
-- Returns the number of the change. 0: nobody would be left.

local registered = redis.call('HEXISTS', KEYS[1], ARGV[1])
local last = redis.call('HMGET', KEYS[1], ':changes', ':withdrawals')
local others = redis.call('HLEN', KEYS[1]) - registered - (last[1] and 1 or 0) - (last[2] and 1 or 0)
if others == 0 and (registered == 1 or ARGV[2] == '1') then
  return unchanged(0)
end
redis.call('HDEL', KEYS[1], ARGV[1])
local change = math.max(tonumber(last[1] or 0), tonumber(ARGV[3])) + 1
redis.call('HSET', KEYS[1], ':changes', change, ':withdrawals', change)
return change
