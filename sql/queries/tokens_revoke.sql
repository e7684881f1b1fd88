-- Revoke every live token of a workspace.
--
-- $1 workspace id
UPDATE workspace_tokens
SET revoked_at = now()
WHERE workspace_id = $1 AND revoked_at IS NULL
