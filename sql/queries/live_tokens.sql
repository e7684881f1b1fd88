-- The SHA-256 of every live token of a workspace; no row if there is no such workspace.
--
-- $1 workspace id
SELECT
    workspace.status::text AS status,
    ARRAY(
        SELECT token.token_sha256
        FROM workspace_tokens AS token
        WHERE token.workspace_id = workspace.id AND token.revoked_at IS NULL
    ) AS token_sha256s
FROM workspaces AS workspace
WHERE workspace.id = $1
