#!lua
-- Counts a user among the enabled administrators: the second half of making one, unless a withdrawal began meanwhile, which may
-- be that of this user.
-- KEYS: the administrators. ARGV: the user's name, the number of the change.
-- Returns 1: counted. 0: a withdrawal began.

if tonumber(redis.call('HGET', KEYS[1], ':withdrawals') or 0) > tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
