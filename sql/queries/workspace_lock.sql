-- The workspace's row, locked until the transaction ends: everything that writes spend, tokens or
-- limits of one workspace comes here first and so happens one after the other.
--
-- $1 workspace id
SELECT
    workspace.status::text AS status,
    workspace.budget_limits,
    workspace.url
FROM workspaces AS workspace
WHERE workspace.id = $1
FOR NO KEY UPDATE
