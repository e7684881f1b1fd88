-- Keep what a heartbeat tells of its workspace; null leaves a column as it was.
--
-- $1 workspace id, $2 accepted report in cents, $3 uptime in seconds, $4 active tasks,
-- $5 current task, $6 error rate, $7 sample error, $8 runtime state, $9 runtime metadata
--
-- monthly_spend is the platform's column of the last report: stepping back to it loses nothing.
UPDATE workspaces
SET last_heartbeat_at = clock_timestamp(),
    monthly_spend = coalesce($2::bigint, monthly_spend),
    uptime_seconds = coalesce($3::bigint, uptime_seconds),
    active_tasks = coalesce($4::bigint, active_tasks),
    current_task = coalesce($5::text, current_task),
    last_error_rate = coalesce($6::double precision, last_error_rate),
    last_sample_error = coalesce($7::text, last_sample_error),
    runtime_state = coalesce($8::text, runtime_state),
    runtime_metadata = coalesce($9::jsonb, runtime_metadata)
WHERE id = $1
