#!lua
-- Creates a user. KEYS: the user. ARGV: the fields of the hash and their values.
-- Returns 1: created. 0: the name is taken.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return unchanged(0)
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
