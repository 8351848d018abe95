#!lua flags=allow-oom
-- Changes nothing, but writes the mark of guard.lua, so that its answer waits until enough Redis replicas have all
-- earlier writes. KEYS: any key of the Cluster slot.

return unchanged(1)
