-- Counts a login attempt as a failure before its password is verified, unless it comes too early. Out of memory, it
-- applies the counters that exist and adds nothing: attempts from many addresses must not fill Redis. So it has no
-- `#!lua` line, with which Redis would reject the whole script then, or let it write all the same. It has no guard, so
-- an attempt may count twice if redis-rs resends the script in a Cluster.
-- KEYS: exists if the client is known to the user; the counters of failures: of the client at the user, of the user, of
-- the client, of the client's site, if it has one.
-- ARGV: the longest retention in ms; the longest delay in ms; for each counter: the number of free failures, the first
-- delay in ms, the number of further failures that doubles it.
-- Returns 0: counted in all. -1: the client is known, and counted in the first alone. -2: out of memory, and not
-- counted. Otherwise the ms to wait.

local max_retention, max_delay = tonumber(ARGV[1]), tonumber(ARGV[2])
local PER_CLIENT_AND_USER, PER_USER = 1, 2

-- The number of free failures, the first delay, and the further failures that double it.
local function rule(counter)
  return unpack(ARGV, 3 * counter, 3 * counter + 2)
end

-- The number of failures counted.
local function failures(counter)
  return tonumber(redis.call('GET', KEYS[counter + 1]) or 0)
end

-- The ms that have to pass after the last failure.
local function delay(counter)
  local free, first, step = rule(counter)
  local beyond = failures(counter) - free
  if beyond < 0 then
    return 0
  end
  return math.min(first * 2 ^ math.floor(beyond / step), max_delay)
end

-- The ms until a counter with this many failures expires: `CounterRule::retention`.
local function retention(counter, failures)
  local free = tonumber((rule(counter)))
  return math.floor(max_retention * math.min(failures, free) / free)
end

-- The ms since the last failure, when the TTL of the counter was full; without a counter, infinite. If the TTL is more
-- than full, the clock was set back: then the failure counts as made now.
local function since(counter)
  local full, left = retention(counter, failures(counter)), redis.call('PTTL', KEYS[counter + 1])
  if left < 0 then
    return math.huge
  elseif left > full then
    redis.call('PEXPIRE', KEYS[counter + 1], full)
    return 0
  end
  return full - left
end

-- The ms that are left of a delay after the last failure of this counter.
local function remaining(delay, counter)
  return delay > 0 and delay - since(counter) or 0
end

local known = redis.call('EXISTS', KEYS[1]) == 1
local counters = known and 1 or #KEYS - 1

-- The user's delay is counted from this client's last attempt, so that a first attempt is never delayed by others.
local wait = remaining(math.max(delay(PER_CLIENT_AND_USER), known and 0 or delay(PER_USER)), PER_CLIENT_AND_USER)
for counter = PER_USER + 1, counters do
  wait = math.max(wait, remaining(delay(counter), counter))
end
if wait > 0 then
  return wait
end

for counter = 1, counters do
  local failures = failures(counter) + 1
  local reply = redis.pcall('SET', KEYS[counter + 1], failures, 'PX', retention(counter, failures))
  if reply.err then
    -- Then the first SET fails, and nothing was counted: Redis checks its memory before it runs a script.
    return reply.err:find('^OOM') and -2 or reply
  end
end
return known and -1 or 0
