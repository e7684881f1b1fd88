-- The rows of the asked workspaces that exist, locked until the transaction ends: everything that
-- writes spend, tokens or limits of a workspace comes here first and so happens one after the other.
--
-- $1 workspace ids
--
-- Locks are taken in one order, so that transactions with many never wait for one another in a
-- circle.
SELECT
    workspace.id::text AS workspace_id,
    workspace.status::text AS status,
    workspace.budget_limits,
    workspace.url
FROM workspaces AS workspace
WHERE workspace.id = ANY ($1)
ORDER BY workspace.id
FOR NO KEY UPDATE
