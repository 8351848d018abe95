#!lua flags=allow-oom
-- Numbers a change of a user, even where Redis is out of memory. If the change ends the user's administration, the user
-- first leaves the enabled administrators, unless no other is left.
-- KEYS: the administrators.
-- ARGV: the number to exceed, since a failover may have lost higher ones; if the change ends administration, the user's
-- name, and '1' if the user was seen to be an enabled administrator.
-- Returns the number of the change. 0: no administrator would be left.

local admins, name = KEYS[1], ARGV[2]
local last = redis.call('HMGET', admins, ':changes', ':withdrawals')
local change = math.max(tonumber(last[1] or 0), tonumber(ARGV[1])) + 1
if name then
  local registered = redis.call('HEXISTS', admins, name)
  local others = redis.call('HLEN', admins) - registered - (last[1] and 1 or 0) - (last[2] and 1 or 0)
  if others == 0 and (registered == 1 or ARGV[3] == '1') then
    return unchanged(0)
  end
  redis.call('HDEL', admins, name)
  redis.call('HSET', admins, ':withdrawals', change)
end
redis.call('HSET', admins, ':changes', change)
return change
