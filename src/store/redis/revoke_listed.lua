#!lua flags=allow-oom
-- Revokes these tokens of a user, even where Redis is out of memory.
-- KEYS: the index of the user's tokens, the index of their expiries, their last uses. ARGV: the prefix of the tokens'
-- keys; their ids.
-- Returns the ids of the tokens revoked; any other was not live.

local prefix, revoked = table.remove(ARGV, 1), {}
for _, id in ipairs(ARGV) do
  if redis.call('DEL', prefix .. id) == 1 then
    revoked[#revoked + 1] = id
  end
end
redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
forget_uses(KEYS[3], ARGV)
return #revoked == 0 and unchanged(revoked) or revoked
