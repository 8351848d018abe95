#!lua flags=allow-oom
-- Changes nothing: its answer waits until enough replicas have all earlier writes. KEYS: any key of the slot.

return unchanged(1)
