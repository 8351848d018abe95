#!lua flags=allow-oom
-- Revokes all tokens of a user, even where Redis is out of memory.
-- KEYS: the index of the user's tokens, the index of their expiries, their last uses. ARGV: the prefix of the tokens'
-- keys.
-- Returns the number of tokens revoked.

local revoked = delete_tokens(KEYS[1], KEYS[2], KEYS[3], ARGV[1])
return revoked == 0 and unchanged(0) or revoked
