#!lua flags=allow-oom
-- Takes back that a try to log in was counted as a failure, because it succeeded; those of the client at the user are
-- forgotten, and the user is known there.
-- KEYS: whether the user is known at the client; the counts that it was counted with, that of the client at the user first.
-- ARGV: for how many ms the user is known.

redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
redis.call('DEL', KEYS[2])
for index = 3, #KEYS do
  if tonumber(redis.call('GET', KEYS[index]) or 0) > 1 then
    redis.call('DECR', KEYS[index])
  else
    redis.call('DEL', KEYS[index])
  end
end
return 1
