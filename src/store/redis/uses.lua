-- The field that holds the last use of a token with this id, or with this key, in the hash of its owner's uses: the
-- last 12 of the 36 characters. Two of 1,000 tokens share a field with a probability of 2 in a billion.
local function use_field(id)
  return id:sub(-12)
end

-- Removes the last uses of tokens with these ids.
local function forget_uses(uses, ids)
  local fields = {}
  for position, id in ipairs(ids) do
    fields[position] = use_field(id)
  end
  redis.call('HDEL', uses, unpack(fields))
end

