-- Comes after guard.lua, whose `unchanged` it calls.

-- The record of an Idempotency-Key, and the record of its token (false: it is gone); nil if the key is unused.
-- `token_prefix`: the prefix of the keys of its owner's tokens.
local function repetition(key, token_prefix)
  local issuance = redis.call('GET', key)
  return issuance and unchanged({issuance, redis.call('GET', token_prefix .. cjson.decode(issuance).i)})
end
