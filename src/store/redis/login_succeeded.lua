#!lua flags=allow-oom
-- Removes a login attempt that succeeded from its counters, resets the client's counter for this user, and makes the
-- client known to the user.
-- KEYS: exists if the client is known to the user; the counters of the attempt, that of the client at the user first.
-- ARGV: for how many ms the client stays known.

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
