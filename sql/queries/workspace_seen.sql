-- A heartbeat came, but what it tells is older than what is known: only its arrival counts.
--
-- $1 workspace id
UPDATE workspaces
SET last_heartbeat_at = clock_timestamp()
WHERE id = $1
