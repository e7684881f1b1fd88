-- What operators see of the asked workspaces, removed ones left out.
--
-- $1 workspace ids
SELECT
    workspace.id::text AS workspace_id,
    workspace.name,
    workspace.status::text AS status,
    workspace.url,
    workspace.last_heartbeat_at,
    workspace.uptime_seconds::bigint AS uptime_seconds,
    workspace.active_tasks::bigint AS active_tasks,
    workspace.current_task,
    workspace.last_error_rate::double precision AS error_rate,
    workspace.last_sample_error AS sample_error,
    workspace.runtime_state,
    workspace.runtime_metadata
FROM workspaces AS workspace
WHERE workspace.id = ANY ($1)
    AND workspace.status::text IS DISTINCT FROM 'removed'
