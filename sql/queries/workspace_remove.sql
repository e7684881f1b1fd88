-- Soft-remove a workspace; its ledger stays. A row comes back only if it was there.
--
-- $1 workspace id
UPDATE workspaces
SET status = 'removed'
WHERE id = $1 AND status::text IS DISTINCT FROM 'removed'
RETURNING id::text AS workspace_id
