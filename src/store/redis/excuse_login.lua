#!lua flags=allow-oom
-- Takes back that a try to log in was counted as a failure, and after a login forgets those of the client at the user.
-- KEYS: the failures of the client at the user, those at the user, those of the client; whether the user is known there.
-- ARGV: how many of the counts, from the first, it was counted with; for how many ms the user is known there, or 0, where
-- nobody logged in.

for count = 1, tonumber(ARGV[1]) do
  if tonumber(redis.call('GET', KEYS[count]) or 0) > 1 then
    redis.call('DECR', KEYS[count])
  else
    redis.call('DEL', KEYS[count])
  end
end
if ARGV[2] ~= '0' then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[4], '', 'PX', ARGV[2])
end
return 1
