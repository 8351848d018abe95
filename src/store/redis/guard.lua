-- Begins most scripts that write: checks the authority of the write in the same atomic step. Those without it count
-- login attempts, record last uses and keep the indexes of tokens in order, which needs no authority.
-- KEYS: the user whose login the write rests on, if a login epoch is given; then the script's own.
-- ARGV: the mark, a key in the Cluster slot of the script's keys that exists only while a script runs; an id of this
-- run ('' if the write may run twice, or nothing resends it); the login epoch that the user must have ('' for none);
-- the role that the user must have ('' for any); the earliest and the latest moment for the write, in us since 1970 by
-- this server's clock ('' for any); then the script's own.

local mark, run_id, epoch, role, from, to = unpack(ARGV, 1, 6)
-- From here on, the script's own. Removing the first six one by one moves all others each time.
local ARGV = {unpack(ARGV, 7)}
local principal = epoch ~= '' and table.remove(KEYS, 1)

-- Checked first: the other checks may fail just because the first run succeeded.
if run_id ~= '' and redis.call('EXISTS', mark .. ':' .. run_id) == 1 then
  return redis.error_reply('TWICE this write has run before')
end
if to ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- Before `from`: this clock was set back, so it is unknown how old the write is.
  if now < tonumber(from) or now > tonumber(to) then
    return redis.error_reply('TOOLATE the authority of this write has lapsed')
  end
end
if principal then
  local user = redis.call('HMGET', principal, 'disabled', 'epoch', 'role')
  -- Old records have no login epoch, which stands for `LoginEpoch::NONE`: 32 zeros.
  if user[1] ~= '0' or (user[2] or string.rep('0', 32)) ~= epoch then
    return redis.error_reply('LOGINENDED the login that asked for this write has ended')
  end
  if role ~= '' and user[3] ~= role then
    return redis.error_reply('FORBIDDEN the user who asked for this write has another role')
  end
end
-- redis-rs may resend the script until its operation gives up, after MAYFLY_REDIS_TIMEOUT. The ids of runs are kept for
-- 60 s, which is enough unless that timeout is longer.
if run_id ~= '' then
  redis.call('SET', mark .. ':' .. run_id, '', 'PX', 60000)
end

-- Ends a script that changed nothing: writes the mark and deletes it, which is replicated. Since Redis 7.2, WAIT waits
-- for the last write of its own connection only, while the reply may rest on a write of another connection.
local function unchanged(reply)
  redis.call('SET', mark, '')
  redis.call('DEL', mark)
  return reply
end
