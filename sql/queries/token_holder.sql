-- Whether any workspace has this live token.
--
-- $1 SHA-256 of the token
SELECT EXISTS (
    SELECT FROM workspace_tokens WHERE token_sha256 = $1::bytea AND revoked_at IS NULL
) AS is_held
