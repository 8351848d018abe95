-- Begins each script that writes: checks the authority of the write where it runs, in the same step.
-- KEYS: a mark in the slot of the other keys, which exists only within a script; the user who asks, where an epoch is given.
-- ARGV: a name for this write ('' where no library sends it twice); the login epoch of the user who asks ('' for none);
-- from when and until when it may run, in µs of this server's clock ('' for always). The rest is the script's own.

local mark = table.remove(KEYS, 1)
local name, epoch = table.remove(ARGV, 1), table.remove(ARGV, 1)
local from, to = tonumber(table.remove(ARGV, 1)), tonumber(table.remove(ARGV, 1))
local user = epoch ~= '' and table.remove(KEYS, 1)

if to then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- Before `from`, the clock was set back, and says nothing of how long the write was on its way.
  if now < from or now > to then
    return redis.error_reply('TOOLATE the authority of this write has lapsed')
  end
end
if user then
  local owner = redis.call('HMGET', user, 'disabled', 'epoch')
  -- Users who were written before there were epochs have none.
  if owner[1] ~= '0' or (owner[2] or string.rep('0', 32)) ~= epoch then
    return redis.error_reply('LOGINENDED the login that asked for this write has ended')
  end
end
if name ~= '' and not redis.call('SET', mark .. ':' .. name, '', 'NX', 'PX', 60000) then
  return redis.error_reply('TWICE this write has run before')
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
