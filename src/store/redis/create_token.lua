#!lua
-- Creates a token, if its owner may have one more, and ends the token whose place it takes, where there is one.
-- KEYS: the token, the index of its owner's tokens, its owner, the predecessor.
-- ARGV: its id, its record, its life in ms, the quota, the epoch of its owner's login ('' for any); the predecessor's id, its
-- record from now on, and for how many ms it may still live.
-- Returns 1: created. 0: quota reached. -1: no such user, or disabled, or has to log in again. -2: the predecessor is gone. -3: it has a successor.

local owner = redis.call('HMGET', KEYS[3], 'disabled', 'epoch')
-- Users who were written before there were epochs have none.
local epoch = owner[2] or string.rep('0', 32)
if owner[1] ~= '0' or (ARGV[5] ~= '' and epoch ~= ARGV[5]) then
  return -1
end
-- The same create again, after an answer that got lost.
if redis.call('GET', KEYS[1]) == ARGV[2] then
  return 1
end

local predecessor, overlap = KEYS[4], tonumber(ARGV[8])
if predecessor then
  local record = redis.call('GET', predecessor)
  if not record then
    return -2
  end
  if cjson.decode(record).s then
    return -3
  end
end

-- A predecessor that dies at once leaves its place.
local quota = tonumber(ARGV[4]) + (overlap == 0 and 1 or 0)
if redis.call('ZCARD', KEYS[2]) >= quota then
  -- The index may name tokens that died by themselves. They are dropped only here and when the tokens are listed, so
  -- that creating one costs the same whatever the others did.
  local prefix = KEYS[1]:sub(1, -#ARGV[1] - 1)
  local dead = {}
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if redis.call('EXISTS', prefix .. id) == 0 then
      dead[#dead + 1] = id
    end
  end
  for _, id in ipairs(dead) do
    redis.call('ZREM', KEYS[2], id)
  end
  if redis.call('ZCARD', KEYS[2]) >= quota then
    return 0
  end
end

if overlap == 0 then
  redis.call('DEL', predecessor)
  redis.call('ZREM', KEYS[2], ARGV[6])
elseif predecessor then
  local left = math.min(overlap, redis.call('PTTL', predecessor))
  redis.call('SET', predecessor, ARGV[7], 'PX', math.max(left, 1))
end

local now = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now[1] .. string.format('%06d', now[2]), ARGV[1])
return 1
