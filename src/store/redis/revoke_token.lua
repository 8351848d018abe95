#!lua flags=allow-oom
-- Revokes a token, even where Redis is out of memory.
-- KEYS: the token; the index of its owner's tokens, the index of their expiries, their last uses. ARGV: its id; the
-- digest of its JWT that its record must hold ('' for any).
-- Returns 1: revoked. 0: there was none.

if ARGV[2] ~= '' then
  local record = redis.call('GET', KEYS[1])
  if not record or cjson.decode(record).h ~= ARGV[2] then
    return unchanged(0)
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
forget_uses(KEYS[4], {ARGV[1]})
if redis.call('DEL', KEYS[1]) == 0 then
  return unchanged(0)
end
return 1
