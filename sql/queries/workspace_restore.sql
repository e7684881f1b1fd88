-- Bring a removed workspace back with the status that a new one has.
--
-- $1 workspace id
UPDATE workspaces
SET status = DEFAULT
WHERE id = $1 AND status::text = 'removed'
