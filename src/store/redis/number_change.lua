#!lua flags=allow-oom
-- Numbers a change of a user, and first takes the user out of the enabled administrators where the change ends that role:
-- unless no administrator would be left. Runs even where Redis is out of memory.
-- KEYS: the administrators.
-- ARGV: the number to exceed (a failover may have lost higher ones); where the change ends the role, the user's name, and '1'
-- if the user was seen to be an enabled administrator.
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
