#!lua flags=allow-oom
-- Removes a user and all of the user's tokens, even where Redis is out of memory.
-- KEYS: the user, the index. ARGV: the number of the change, the prefix of the tokens' keys.
-- Returns how many tokens ended. -1: no such user. -2, and the number of a later change that was faster: nothing changed.

local last = redis.call('HGET', KEYS[1], 'change')
if last and tonumber(last) > tonumber(ARGV[1]) then
  return {-2, {'change', last}}
end
local removed, ended = redis.call('DEL', KEYS[1]), 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  ended = ended + redis.call('DEL', ARGV[2] .. id)
end
redis.call('DEL', KEYS[2])
return {removed == 1 and ended or -1, {}}
