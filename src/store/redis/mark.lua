#!lua flags=allow-oom
-- Changes nothing, and is answered once enough replicas have what was written before. KEYS: any key of the slot.

return unchanged(1)
