-- Counts a try to log in as a failure before its password is looked at, unless it comes too early. Where Redis is out
-- of memory, when users log in to revoke tokens, it weighs what is counted and adds nothing: strangers with many
-- addresses are not to fill it. No `#!lua` on purpose: with it, the script would not run at all then, or write
-- nevertheless.
-- KEYS: whether the user is known at the client; the counts: the failures of the client at the user, those at the user,
-- those of the client, those of its site, if it has one.
-- ARGV: ms until the free failures of a count, or more, are forgotten; the longest delay in ms; then for each count:
-- how many failures are free, the first delay in ms, the number of further failures that doubles it.
-- Returns 0: counted with all. -1: where the user is known, with the first alone. -2: out of memory, and not counted.
-- Else in how many ms to come again.

local max_retention, max_delay = tonumber(ARGV[1]), tonumber(ARGV[2])
local PER_CLIENT_AND_USER, PER_USER = 1, 2

local function backoff(count)
  return unpack(ARGV, 3 * count, 3 * count + 2)
end

local function failures(count)
  return tonumber(redis.call('GET', KEYS[count + 1]) or 0)
end

local function delay(count)
  local free, first, step = backoff(count)
  local beyond = failures(count) - free
  if beyond < 0 then
    return 0
  end
  return math.min(first * 2 ^ math.floor(beyond / step), max_delay)
end

-- For how many ms so many failures are remembered: `Backoff::retention`.
local function retention(count, failures)
  local free = tonumber((backoff(count)))
  return math.floor(max_retention * math.min(failures, free) / free)
end

-- How many ms ago it was counted last: its TTL was full then. What is not there was, for ever. A TTL that is more than
-- full says that the clock was set back: then the time begins anew, by the clock as it is now.
local function since(count)
  local full, left = retention(count, failures(count)), redis.call('PTTL', KEYS[count + 1])
  if left < 0 then
    return math.huge
  elseif left > full then
    redis.call('PEXPIRE', KEYS[count + 1], full)
    return 0
  end
  return full - left
end

-- What is left of a delay after the last try that was counted there.
local function remaining(delay, count)
  return delay > 0 and delay - since(count) or 0
end

local known = redis.call('EXISTS', KEYS[1]) == 1
local counts = known and 1 or #KEYS - 1

local wait = remaining(math.max(delay(PER_CLIENT_AND_USER), known and 0 or delay(PER_USER)), PER_CLIENT_AND_USER)
for count = PER_USER + 1, counts do
  wait = math.max(wait, remaining(delay(count), count))
end
if wait > 0 then
  return wait
end

for count = 1, counts do
  local failures = failures(count) + 1
  local reply = redis.pcall('SET', KEYS[count + 1], failures, 'PX', retention(count, failures))
  if reply.err then
    -- Before the first of them was written: what a script may write does not change while it runs.
    return reply.err:find('^OOM') and -2 or reply
  end
end
return known and -1 or 0
