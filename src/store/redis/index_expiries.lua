#!lua
-- Adds some of a user's tokens to the index of their expiries, which begins anew with the first of them, and drops
-- those that have expired from the index of tokens, with their last uses.
-- KEYS: the index of the user's tokens, the index of their expiries, their last uses.
-- ARGV: the prefix of the tokens' keys; the position in the index of tokens to begin at; how many tokens to add.
-- Returns the position to go on at. nil: the index has no more tokens.

local first, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if first == 0 then
  redis.call('DEL', KEYS[2])
end
local ids = redis.call('ZRANGE', KEYS[1], first, first + count - 1)
local added, expired = {}, {}
for _, id in ipairs(ids) do
  local left = redis.call('PTTL', ARGV[1] .. id)
  if left == -2 then
    expired[#expired + 1] = id
  else
    added[#added + 1] = left < 0 and '+inf' or now + left
    added[#added + 1] = id
  end
end
if #added > 0 then
  redis.call('ZADD', KEYS[2], unpack(added))
end
if #expired > 0 then
  redis.call('ZREM', KEYS[1], unpack(expired))
  forget_uses(KEYS[3], expired)
end
return #ids == count and first + #ids - #expired or false
