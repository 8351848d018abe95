#!lua flags=allow-oom
-- Revokes all tokens of a user, even where Redis is out of memory. KEYS: the index. ARGV: the prefix of the tokens'
-- keys.
-- Returns the number of tokens revoked.

local revoked = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  revoked = revoked + redis.call('DEL', ARGV[1] .. id)
end
redis.call('DEL', KEYS[1])
return revoked == 0 and unchanged(0) or revoked
