-- The ids that follow another in order, to walk through all workspaces in batches.
--
-- $1 the id to start behind as text, '' for the first; $2 ids at most
SELECT workspace.id::text AS workspace_id
FROM workspaces AS workspace
WHERE workspace.id::text > $1::text
ORDER BY workspace.id::text
LIMIT $2::bigint
