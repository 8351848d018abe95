#!lua flags=allow-oom
-- Lists the live tokens of a user, newest first, and drops expired tokens from the index.
-- KEYS: the index. ARGV: the prefix of the tokens' keys; the token after which the page begins ('' for the newest); the
-- limit ('' for none).
-- Returns id, record, remaining ms, id, ...; one token beyond the limit if more follow.
-- Returns nil if the token to begin after is not live.

local start = 0
if ARGV[2] ~= '' then
  local rank = redis.call('ZREVRANK', KEYS[1], ARGV[2])
  if not rank or redis.call('EXISTS', ARGV[1] .. ARGV[2]) == 0 then
    return false
  end
  start = rank + 1
end
local wanted = ARGV[3] == '' and math.huge or tonumber(ARGV[3]) + 1

local found, count, expired = {}, 0, {}
repeat
  local last = wanted == math.huge and -1 or start + (wanted - count) - 1
  local ids = redis.call('ZREVRANGE', KEYS[1], start, last)
  for _, id in ipairs(ids) do
    local record = redis.call('GET', ARGV[1] .. id)
    if record then
      count = count + 1
      found[#found + 1] = id
      found[#found + 1] = record
      found[#found + 1] = redis.call('PTTL', ARGV[1] .. id)
    else
      expired[#expired + 1] = id
    end
  end
  start = start + #ids
until #ids == 0 or last == -1 or count >= wanted

for _, id in ipairs(expired) do
  redis.call('ZREM', KEYS[1], id)
end
return found
