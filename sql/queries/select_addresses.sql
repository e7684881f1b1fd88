-- Where the agents of all workspaces are, for when the database is away.
SELECT workspace.id::text AS workspace_id, workspace.url
FROM workspaces AS workspace
WHERE workspace.status::text IS DISTINCT FROM 'removed'
    AND workspace.url IS NOT NULL
