#!lua flags=allow-oom
-- Changes fields of a user who exists, even where Redis is out of memory: a password may have to go now. KEYS: the user. ARGV: fields and values.
-- Returns 1: changed. 0: no such user.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
