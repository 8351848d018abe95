#!lua
-- Adds a user to the enabled administrators, unless an administrator, who may be this user, left them after the change
-- got its number.
-- KEYS: the administrators. ARGV: the user's name, the number of the change.
-- Returns 1: added. 0: an administrator left.

if tonumber(redis.call('HGET', KEYS[1], ':withdrawals') or 0) > tonumber(ARGV[2]) then
  return unchanged(0)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
