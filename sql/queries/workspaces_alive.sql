-- Keep what heartbeats tell of their workspaces, each of them named once; null leaves a column as
-- it was.
--
-- $1 workspace ids, $2 accepted reports in cents, $3 uptimes in seconds, $4 active tasks,
-- $5 current tasks, $6 error rates, $7 sample errors, $8 runtime states, $9 runtime metadata
--
-- monthly_spend is the platform's column of the last report: stepping back to it loses nothing.
-- The comparison in `typed`, which nothing reads, gives $1 the type of the id.
WITH typed AS (SELECT FROM workspaces WHERE id = ANY ($1))
UPDATE workspaces AS workspace
SET last_heartbeat_at = clock_timestamp(),
    monthly_spend = coalesce(told.spend_cents, workspace.monthly_spend),
    uptime_seconds = coalesce(told.uptime_seconds, workspace.uptime_seconds),
    active_tasks = coalesce(told.active_tasks, workspace.active_tasks),
    current_task = coalesce(told.current_task, workspace.current_task),
    last_error_rate = coalesce(told.error_rate, workspace.last_error_rate),
    last_sample_error = coalesce(told.sample_error, workspace.last_sample_error),
    runtime_state = coalesce(told.runtime_state, workspace.runtime_state),
    runtime_metadata = coalesce(told.runtime_metadata, workspace.runtime_metadata)
FROM unnest(
    $1, $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::double precision[], $7::text[],
    $8::text[], $9::jsonb[]
) AS told (
    workspace_id, spend_cents, uptime_seconds, active_tasks, current_task, error_rate,
    sample_error, runtime_state, runtime_metadata
)
WHERE workspace.id = told.workspace_id
