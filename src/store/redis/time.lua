#!lua flags=no-writes
-- Returns the clock of the server that has the slot: seconds, and microseconds. KEYS: any key of the slot.

return redis.call('TIME')
