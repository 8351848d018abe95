#!lua
-- Records when tokens of a user were last used. A token that does not exist gets no record, and no time goes back.
-- KEYS: the uses of the user's tokens; the tokens. ARGV: when each token was used, in seconds since 1970.

local uses, ids = KEYS[1], {}
for position = 2, #KEYS do
  ids[#ids + 1] = use_field(KEYS[position])
end
local recorded = redis.call('HMGET', uses, unpack(ids))
local ttl, changed = redis.call('PTTL', uses), {}
local longest = ttl
for position, at in ipairs(ARGV) do
  local left = redis.call('PTTL', KEYS[position + 1])
  if left ~= -2 and tonumber(at) > (tonumber(recorded[position]) or 0) then
    changed[#changed + 1] = ids[position]
    changed[#changed + 1] = at
    longest = math.max(longest, left)
  end
end
if #changed > 0 then
  redis.call('HSET', uses, unpack(changed))
  -- The record outlives none of its tokens.
  if longest > ttl then
    redis.call('PEXPIRE', uses, longest)
  end
end
return #changed / 2
