#!lua
-- Creates a token, unless its owner has reached the quota. In a rotation, also shortens the life of the predecessor.
-- KEYS: the token, the index of its owner's tokens; in a rotation, the predecessor.
-- ARGV: its id, its record, its life in ms, the quota; in a rotation, the predecessor's id, its new record, and the ms
-- that it may still live.
-- Returns 1: created. 0: quota reached. -2: the predecessor does not exist. -3: the predecessor has a successor
-- already.

local predecessor, overlap = KEYS[3], tonumber(ARGV[7])
if predecessor then
  local record = redis.call('GET', predecessor)
  if not record then
    return unchanged(-2)
  end
  if cjson.decode(record).s then
    return unchanged(-3)
  end
end

-- A predecessor without an overlap is revoked and does not count towards the quota.
local quota = tonumber(ARGV[4]) + (overlap == 0 and 1 or 0)
if redis.call('ZCARD', KEYS[2]) >= quota then
  -- The index may name expired tokens. They are dropped from it only here and when the tokens are listed, so that the
  -- usual creation costs the same however many tokens there are.
  local prefix = KEYS[1]:sub(1, -#ARGV[1] - 1)
  local expired = {}
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if redis.call('EXISTS', prefix .. id) == 0 then
      expired[#expired + 1] = id
    end
  end
  for _, id in ipairs(expired) do
    redis.call('ZREM', KEYS[2], id)
  end
  if redis.call('ZCARD', KEYS[2]) >= quota then
    return unchanged(0)
  end
end

if overlap == 0 then
  redis.call('DEL', predecessor)
  redis.call('ZREM', KEYS[2], ARGV[5])
elseif predecessor then
  local left = math.min(overlap, redis.call('PTTL', predecessor))
  redis.call('SET', predecessor, ARGV[6], 'PX', math.max(left, 1))
end

local now = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now[1] .. string.format('%06d', now[2]), ARGV[1])
return 1
