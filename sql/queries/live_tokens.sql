-- The SHA-256 of every live token, for each of the asked workspaces that exists.
--
-- $1 workspace ids
SELECT
    workspace.id::text AS workspace_id,
    workspace.status::text AS status,
    ARRAY(
        SELECT token.token_sha256
        FROM workspace_tokens AS token
        WHERE token.workspace_id = workspace.id AND token.revoked_at IS NULL
    ) AS token_sha256s
FROM workspaces AS workspace
WHERE workspace.id = ANY ($1)
