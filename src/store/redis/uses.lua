-- When tokens of a user were last used: a hash of up to 256 parts. A token is in the part of its id's last 12 digits'
-- first two, which are the field, with an entry of 9 bytes: the other 10 of these digits, and the time in seconds since
-- 1970. A field for each token takes three times as much memory for more than 512 tokens, as Redis encodes a hash of so
-- many fields in another way. Two of 1,000 tokens share an entry with a probability of 2 in a billion.
local ENTRY_BYTES = 9

-- The field for a token with this id, or with this key, and the first 5 bytes of its entry.
local function use_place(id)
  return id:sub(-12, -11), struct.pack('>I5', tonumber(id:sub(-10), 16) or 0)
end

-- The part in a field; empty if there is none, or none that can be read.
local function read_part(uses, field)
  local part = redis.call('HGET', uses, field) or ''
  return #part % ENTRY_BYTES == 0 and part or ''
end

-- The part without the entry that begins so, and the time of this entry (nil: the part has no such entry).
local function take_use(part, beginning)
  local position = 0
  repeat
    position = part:find(beginning, position + 1, true)
  until not position or position % ENTRY_BYTES == 1
  if not position then
    return part
  end
  return part:sub(1, position - 1) .. part:sub(position + ENTRY_BYTES), (struct.unpack('>I4', part, position + 5))
end

-- Removes the last uses of tokens with these ids.
local function forget_uses(uses, ids)
  if redis.call('EXISTS', uses) == 0 then
    return
  end
  for _, id in ipairs(ids) do
    local field, beginning = use_place(id)
    local rest, at = take_use(read_part(uses, field), beginning)
    if rest == '' then
      redis.call('HDEL', uses, field)
    elseif at then
      redis.call('HSET', uses, field, rest)
    end
  end
end
