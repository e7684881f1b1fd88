-- The agent card that a workspace registered with; no row comes back for a removed one.
--
-- $1 workspace id
SELECT workspace.agent_card
FROM workspaces AS workspace
WHERE workspace.id = $1 AND workspace.status::text IS DISTINCT FROM 'removed'
