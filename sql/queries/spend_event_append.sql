-- Append a row to a workspace's ledger, whose lock the transaction holds.
--
-- $1 workspace id, $2 amount in cents, $3 source, $4 instance id, $5 counter epoch,
-- $6 what was reported in cents
--
-- Times never go back, even if the server's clock does: the windows rely on it.
INSERT INTO workspace_spend_events
    (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source,
     instance_id, counter_epoch, reported_cents)
SELECT
    workspace.id,
    coalesce(newest.event_number, 0) + 1,
    greatest(clock_timestamp(), newest.occurred_at),
    $2::bigint,
    coalesce(newest.running_total_cents, 0) + $2::bigint,
    $3::text,
    $4::text,
    $5::text,
    $6::bigint
FROM workspaces AS workspace
LEFT JOIN LATERAL (
    SELECT event.event_number, event.occurred_at, event.running_total_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = workspace.id
    ORDER BY event.event_number DESC
    LIMIT 1
) AS newest ON true
WHERE workspace.id = $1
