#!lua
-- Records when tokens of a user were last used. A token that does not exist gets no record, and no time goes back.
-- KEYS: the uses of the user's tokens; the tokens. ARGV: when each token was used, in seconds since 1970.

local uses = KEYS[1]
local ttl, recorded = redis.call('PTTL', uses), 0
local longest = ttl
for position, at in ipairs(ARGV) do
  local key = KEYS[position + 1]
  local left = redis.call('PTTL', key)
  local field, beginning = use_place(key)
  local others, last = take_use(read_part(uses, field), beginning)
  if left ~= -2 and tonumber(at) > (last or 0) then
    redis.call('HSET', uses, field, others .. beginning .. struct.pack('>I4', at))
    recorded = recorded + 1
    longest = math.max(longest, left)
  end
end
-- The record outlives none of its tokens.
if longest > ttl then
  redis.call('PEXPIRE', uses, longest)
end
return recorded
