-- Give a workspace a token.
--
-- $1 workspace id, $2 SHA-256 of the token
INSERT INTO workspace_tokens (workspace_id, token_sha256)
VALUES ($1, $2::bytea)
