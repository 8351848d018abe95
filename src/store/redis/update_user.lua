#!lua flags=allow-oom
-- Changes a user, even where Redis is out of memory: the change may revoke a password, a right or the tokens.
-- KEYS: the user; the index of the user's tokens, the index of their expiries, their last uses; the number of the last
-- removal of a user of this name.
-- ARGV: the number of the change ('' for a new password, which makes and unmakes no administrator); the prefix of the
-- tokens' keys, if they are to be revoked, else ''; fields and values.
-- Returns the number of tokens revoked, and all fields and values of the user. -1: no such user. -2, and the higher
-- number of another change: nothing changed. -3: the user has an origin, and so gets no password.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return unchanged({-1, {}})
end
if ARGV[1] == '' and redis.call('HEXISTS', KEYS[1], 'origin') == 1 then
  return unchanged({-3, {}})
end
if ARGV[1] ~= '' then
  local last = last_change(KEYS[1], KEYS[5])
  if last > tonumber(ARGV[1]) then
    return unchanged({-2, {'change', tostring(last)}})
  end
end

local revoked = 0
if ARGV[2] ~= '' then
  revoked = delete_tokens(KEYS[2], KEYS[3], KEYS[4], ARGV[2])
end
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], 'change', ARGV[1])
end
if #ARGV > 2 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 3))
end
return {revoked, redis.call('HGETALL', KEYS[1])}
