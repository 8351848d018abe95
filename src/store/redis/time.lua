#!lua flags=no-writes
-- Returns the time of the server that has a Cluster slot: seconds since 1970, and microseconds. KEYS: any key of the
-- slot.

return redis.call('TIME')
