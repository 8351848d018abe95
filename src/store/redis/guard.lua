-- Begins each script that writes: checks the authority of the write where it runs, in the same step.
-- KEYS: the user who asks, where an epoch is given; the rest is the script's own.
-- ARGV: a mark in the slot of the keys, which exists only within a script; a name for this write ('' where nothing sends it
-- twice); the login epoch of the user who asks ('' for none), and the role that this user must have ('' for any); from when
-- and until when the write may run, in µs of this server's clock ('' for always). The rest is the script's own.

local function argument()
  return table.remove(ARGV, 1)
end
local mark, name, epoch, role = argument(), argument(), argument(), argument()
local from, to = tonumber(argument()), tonumber(argument())
local asker = epoch ~= '' and table.remove(KEYS, 1)

-- Before all else: what refuses a second run may be what the first one did.
if name ~= '' and redis.call('EXISTS', mark .. ':' .. name) == 1 then
  return redis.error_reply('TWICE this write has run before')
end
if to then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- Before `from`, the clock was set back, and says nothing of how long the write was on its way.
  if now < from or now > to then
    return redis.error_reply('TOOLATE the authority of this write has lapsed')
  end
end
if asker then
  local user = redis.call('HMGET', asker, 'disabled', 'epoch', 'role')
  -- Users who were written before there were epochs have none.
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

-- Ends a script that changed nothing: with a write that reaches the replicas all the same. Since Redis 7.2, WAIT waits for
-- the last write of its own connection, while the reply may rest on what another connection wrote.
local function unchanged(reply)
  redis.call('SET', mark, '')
  redis.call('DEL', mark)
  return reply
end

-- The number of the last change of a user that may have made or unmade an administrator. It outlives a removal.
local function last_change(user, removal)
  return math.max(tonumber(redis.call('HGET', user, 'change') or 0), tonumber(redis.call('GET', removal) or 0))
end
