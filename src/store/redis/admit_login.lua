#!lua flags=allow-oom
-- Counts a try to log in as a failure before its password is looked at, unless it comes too early; even where Redis is out
-- of memory, when users log in to revoke tokens.
-- KEYS: the failures of the client at the user, those at the user, those of the client; whether the user is known there.
-- ARGV: in how many ms a count is forgotten; then for each of the three: how many are free, the first delay in ms, the
-- failures that double it, the longest delay in ms.
-- Returns 0: counted. Else in how many ms to come again.

local function delay(count)
  local failures = tonumber(redis.call('HGET', KEYS[count], 'failures') or 0)
  local free, first, step, longest = unpack(ARGV, 4 * count - 2, 4 * count + 1)
  if failures < tonumber(free) then
    return 0
  end
  return math.min(first * 2 ^ math.floor((failures - free) / step), tonumber(longest))
end

local function last(count)
  return tonumber(redis.call('HGET', KEYS[count], 'last') or 0)
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('EXISTS', KEYS[4]) == 1

-- The first try of a client at a user is long after a last one in 1970.
local free_at = last(1) + math.max(delay(1), known and 0 or delay(2))
if not known then
  free_at = math.max(free_at, last(3) + delay(3))
end
if free_at > now then
  return free_at - now
end

for count = 1, 3 do
  redis.call('HINCRBY', KEYS[count], 'failures', 1)
  redis.call('HSET', KEYS[count], 'last', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[count], ARGV[1])
end
return 0
