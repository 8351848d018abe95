#!lua flags=allow-oom
-- Ends all tokens of a user, even where Redis is out of memory. KEYS: the index. ARGV: the prefix of the tokens' keys.
-- Returns how many there were.

local ended = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  ended = ended + redis.call('DEL', ARGV[1] .. id)
end
redis.call('DEL', KEYS[1])
return ended
