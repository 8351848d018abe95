#!lua flags=allow-oom
-- Removes a user and all of the user's tokens. KEYS: the user, the index. ARGV: the prefix of the tokens' keys.
-- Returns 1: removed. 0: no such user.

local removed = redis.call('DEL', KEYS[1])
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  redis.call('DEL', ARGV[1] .. id)
end
redis.call('DEL', KEYS[2])
return removed
