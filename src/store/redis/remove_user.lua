#!lua flags=allow-oom
-- Removes a user and all of the user's tokens and Idempotency-Keys, even where Redis is out of memory.
-- KEYS: the user; the index of the user's tokens, the index of their expiries, their last uses; the number of the last
-- removal of a user of this name; the index of the user's Idempotency-Keys.
-- ARGV: the number of the change; the prefix of the tokens' keys; for how many ms that number is kept as the last.
-- Returns the number of tokens revoked. -1: no such user. -2, and the higher number of another change: nothing changed.

local last = last_change(KEYS[1], KEYS[5])
if last > tonumber(ARGV[1]) then
  return unchanged({-2, {'change', tostring(last)}})
end
local removed, revoked = redis.call('DEL', KEYS[1]), delete_tokens(KEYS[2], KEYS[3], KEYS[4], ARGV[2])
-- This index has whole keys.
delete_tokens(KEYS[6], KEYS[6], KEYS[6], '')
if removed == 0 then
  return unchanged({-1, {}})
end
redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[3])
return {revoked, {}}
