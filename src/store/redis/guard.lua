-- Begins each script that writes: checks the authority of the write in the same atomic step.
-- KEYS: the user whose login the write rests on, if an epoch is given; then the script's own.
-- ARGV: the mark, a key in the slot of the script's keys that exists only while a script runs; a name of this write (''
-- if nothing resends it); the login epoch of the user ('' for none); the role that the user must have ('' for any); the
-- earliest and the latest moment for the write, in us of this server's clock ('' for any); then the script's own.

local function argument()
  return table.remove(ARGV, 1)
end
local mark, name, epoch, role = argument(), argument(), argument(), argument()
local from, to = tonumber(argument()), tonumber(argument())
local principal = epoch ~= '' and table.remove(KEYS, 1)

-- First of all: the other checks may fail just because the first run succeeded.
if name ~= '' and redis.call('EXISTS', mark .. ':' .. name) == 1 then
  return redis.error_reply('TWICE this write has run before')
end
if to then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- Before `from`: the clock was set back, so the age of the write is unknown.
  if now < from or now > to then
    return redis.error_reply('TOOLATE the authority of this write has lapsed')
  end
end
if principal then
  local user = redis.call('HMGET', principal, 'disabled', 'epoch', 'role')
  -- Old records have no epoch.
  if user[1] ~= '0' or (user[2] or string.rep('0', 32)) ~= epoch then
    return redis.error_reply('LOGINENDED the login that asked for this write has ended')
  end
  if role ~= '' and user[3] ~= role then
    return redis.error_reply('FORBIDDEN the user who asked for this write has another role')
  end
end
if name ~= '' then
  redis.call('SET', mark .. ':' .. name, '', 'PX', 60000)
end

-- Ends a script that changed nothing with a write that is replicated all the same. Since Redis 7.2, WAIT waits for the
-- last write of its own connection, while the reply may rest on a write of another one.
local function unchanged(reply)
  redis.call('SET', mark, '')
  redis.call('DEL', mark)
  return reply
end

-- The number of the last change of a user that may have made or unmade an administrator, or of the last removal.
local function last_change(user, removal)
  return math.max(tonumber(redis.call('HGET', user, 'change') or 0), tonumber(redis.call('GET', removal) or 0))
end
