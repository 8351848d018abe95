#!lua flags=allow-oom
-- Reads some of a user's live tokens, newest first, and drops those that have expired from both indexes, with their
-- last uses.
-- KEYS: the index of the user's tokens, the index of their expiries, their last uses.
-- ARGV: the prefix of the tokens' keys; how many tokens of the index to read; the token to begin after ('' for the
-- newest); when that token was created, if it may be gone by now, else ''.
-- Returns the ids, and their remaining ms, each as one text with spaces, which costs the client less than a list; their
-- records (nil for one that has expired); the parts of the last uses that they are in, an empty list where none was
-- used; and when the last one was created, if the index may have more.
-- Returns nil if the token to begin after is not live.

local prefix, count, after, created = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local start = 0
if after ~= '' then
  local rank = redis.call('ZREVRANK', KEYS[1], after)
  if created == '' and (not rank or redis.call('EXISTS', prefix .. after) == 0) then
    return false
  end
  start = rank and rank + 1 or redis.call('ZCOUNT', KEYS[1], '(' .. created, '+inf')
end

local ids = redis.call('ZREVRANGE', KEYS[1], start, start + count - 1)
if #ids == 0 then
  return {'', '', ids, ids, false}
end
local last = #ids == count and redis.call('ZREVRANGE', KEYS[1], start + count - 1, start + count - 1, 'WITHSCORES')[2]

-- One command reads all records. None reads several TTLs.
local keys, left, uses, expired = {}, {}, {}, {}
for position, id in ipairs(ids) do
  keys[position] = prefix .. id
end
local records = redis.call('MGET', unpack(keys))
for position, key in ipairs(keys) do
  if records[position] then
    left[position] = redis.call('PTTL', key)
  else
    left[position] = -2
    expired[#expired + 1] = ids[position]
  end
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  for position, id in ipairs(ids) do
    uses[position] = use_place(id)
  end
  uses = redis.call('HMGET', KEYS[3], unpack(uses))
end
if #expired > 0 then
  redis.call('ZREM', KEYS[1], unpack(expired))
  redis.call('ZREM', KEYS[2], unpack(expired))
  forget_uses(KEYS[3], expired)
end
return {table.concat(ids, ' '), table.concat(left, ' '), records, uses, last}
