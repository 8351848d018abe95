-- The number of the last change of a user that may have made or unmade an administrator, or of the last removal of a
-- user of this name, whichever is higher.
local function last_change(user, removal)
  return math.max(tonumber(redis.call('HGET', user, 'change') or 0), tonumber(redis.call('GET', removal) or 0))
end
