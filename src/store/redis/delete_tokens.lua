-- Deletes all tokens of a user, whose keys have this prefix, both indexes of them and their last uses. Returns the
-- number of tokens.
local function delete_tokens(index, expiries, uses, prefix)
  local ids, deleted = redis.call('ZRANGE', index, 0, -1), 0
  for first = 1, #ids, 1000 do
    local keys = {}
    for position = first, math.min(first + 999, #ids) do
      keys[#keys + 1] = prefix .. ids[position]
    end
    deleted = deleted + redis.call('DEL', unpack(keys))
  end
  redis.call('DEL', index, expiries, uses)
  return deleted
end
