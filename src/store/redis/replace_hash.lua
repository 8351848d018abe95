#!lua
-- Replaces a field of a user, if it still has its old value. KEYS: the user. ARGV: the field, its old value, its new
-- value.
-- Returns 1: replaced. 0: it has another value, or there is no such user.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return unchanged(0)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
