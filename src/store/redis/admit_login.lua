-- Counts a try to log in as a failure before its password is looked at, unless it comes too early. Where Redis is out of
-- memory, when users log in to revoke tokens, it weighs what is counted and adds nothing: strangers with many addresses are
-- not to fill it. No `#!lua` on purpose: with it, the script would not run at all then, or write nevertheless.
-- KEYS: the failures of the client at the user, those at the user, those of the client; whether the user is known there.
-- ARGV: in how many ms a count is forgotten; then for each of the three: how many are free, the first delay in ms, the
-- failures that double it, the longest delay in ms.
-- Returns 0: counted with all three. -1: where the user is known, with the first alone. -2: out of memory, and not counted.
-- Else in how many ms to come again.

local forgotten_after = tonumber(ARGV[1])

local function failures(count)
  return tonumber(redis.call('GET', KEYS[count]) or 0)
end

local function delay(count)
  local free, first, step, longest = unpack(ARGV, 4 * count - 2, 4 * count + 1)
  local beyond = failures(count) - free
  if beyond < 0 then
    return 0
  end
  return math.min(first * 2 ^ math.floor(beyond / step), tonumber(longest))
end

-- How many ms ago it was counted last: its TTL was full then. What is not there was, for ever.
local function since(count)
  local left = redis.call('PTTL', KEYS[count])
  return left < 0 and math.huge or forgotten_after - left
end

local known = redis.call('EXISTS', KEYS[4]) == 1
local remaining = math.max(delay(1), known and 0 or delay(2)) - since(1)
if not known then
  remaining = math.max(remaining, delay(3) - since(3))
end
if remaining > 0 then
  return remaining
end

for count = 1, known and 1 or 3 do
  local reply = redis.pcall('SET', KEYS[count], failures(count) + 1, 'PX', forgotten_after)
  if reply.err then
    -- Before the first of them was written: what a script may write does not change while it runs.
    return reply.err:find('^OOM') and -2 or reply
  end
end
return known and -1 or 0
