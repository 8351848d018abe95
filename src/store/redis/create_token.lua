#!lua
-- Creates a token, unless its owner has reached the quota. In a rotation, also shortens the life of the predecessor.
-- With a new owner, also creates the owner. With an Idempotency-Key, only its first request does so; a repetition finds
-- the token of the first one.
-- KEYS: the new owner, if there is one; with an Idempotency-Key, its key and the index of all of its owner; the token,
-- the index of its owner's tokens, the index of their expiries, their last uses; in a rotation, the predecessor.
-- ARGV: a JSON array of the new owner's fields and values, or ''; the record of the Idempotency-Key ('' without one),
-- for how many ms it is kept, how many are kept of its owner; the token's id, its record, its life in ms, the quota; in
-- a rotation, the predecessor's id, its new record, and the ms that it may still live.
-- Returns 1: created. 0: quota reached. -1: it may be reached, and the index of expiries does not have the same tokens.
-- -2: the predecessor does not exist. -3: the predecessor has a successor already. -4: there is a user of the new
-- owner's name. -5: too many Idempotency-Keys. Or two records: those of the Idempotency-Key, which was used before, and
-- of its token (nil: it is gone).

local owner_fields, issuance, retention, max_keys, id, record, life, quota, old_id, old_record, overlap = unpack(ARGV)
local new_owner = owner_fields ~= '' and table.remove(KEYS, 1)
if new_owner and redis.call('EXISTS', new_owner) == 1 then
  return unchanged(-4)
end

local idempotency = issuance ~= '' and {key = table.remove(KEYS, 1), index = table.remove(KEYS, 1)}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Redis keeps a key during the millisecond in which its TTL ends.
local past = '(' .. now
local prefix = KEYS[1]:sub(1, -#id - 1)
if idempotency then
  local repeated = repetition(idempotency.key, prefix)
  if repeated then
    return repeated
  end
  redis.call('ZREMRANGEBYSCORE', idempotency.index, '-inf', past)
  if redis.call('ZCARD', idempotency.index) >= tonumber(max_keys) then
    return unchanged(-5)
  end
end

local token, index, expiries, uses, predecessor = unpack(KEYS)
overlap = tonumber(overlap)
if predecessor then
  local found = redis.call('GET', predecessor)
  if not found then
    return unchanged(-2)
  end
  if cjson.decode(found).s then
    return unchanged(-3)
  end
end

-- A predecessor without an overlap is revoked and does not count towards the quota.
quota = quota + (overlap == 0 and 1 or 0)
local size, indexed = redis.call('ZCARD', index), redis.call('ZCARD', expiries)
if size >= quota then
  if indexed ~= size then
    return unchanged(-1)
  end
  -- Drops tokens that have expired from both indexes, with their last uses: at most 100, since each create at the quota
  -- drops some.
  for _, old in ipairs(redis.call('ZRANGE', expiries, '-inf', past, 'BYSCORE', 'LIMIT', 0, 100)) do
    local left = redis.call('PTTL', prefix .. old)
    if left == -2 then
      redis.call('ZREM', index, old)
      redis.call('ZREM', expiries, old)
      forget_uses(uses, {old})
    else
      -- Its TTL was lengthened or removed by hand.
      redis.call('ZADD', expiries, left < 0 and '+inf' or now + left, old)
    end
  end
  if redis.call('ZCARD', index) - redis.call('ZCOUNT', expiries, '-inf', past) >= quota then
    return unchanged(0)
  end
end

if overlap == 0 then
  redis.call('DEL', predecessor)
  redis.call('ZREM', index, old_id)
  redis.call('ZREM', expiries, old_id)
  forget_uses(uses, {old_id})
elseif predecessor then
  local left = math.max(math.min(overlap, redis.call('PTTL', predecessor)), 1)
  redis.call('SET', predecessor, old_record, 'PX', left)
  redis.call('ZADD', expiries, 'XX', now + left, old_id)
end

if new_owner then
  redis.call('HSET', new_owner, unpack(cjson.decode(owner_fields)))
end
redis.call('SET', token, record, 'PX', life)
redis.call('ZADD', index, time[1] .. string.format('%06d', time[2]), id)
if indexed > 0 then
  redis.call('ZADD', expiries, now + life, id)
end
if idempotency then
  redis.call('SET', idempotency.key, issuance, 'PX', retention)
  redis.call('ZADD', idempotency.index, now + retention, idempotency.key)
  -- No key is kept for longer than a day.
  redis.call('PEXPIRE', idempotency.index, 86400000)
end
return 1
