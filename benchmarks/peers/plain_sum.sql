-- What somebody writes who has no running totals: one pass over the workspace's rows.
-- $1 workspace id, $2 the lengths of the four periods
SELECT
    workspace.url,
    workspace.budget_limits,
    SUM(amount_cents) FILTER (WHERE occurred_at > now() - ($2::interval[])[1]) AS first_cents,
    SUM(amount_cents) FILTER (WHERE occurred_at > now() - ($2::interval[])[2]) AS second_cents,
    SUM(amount_cents) FILTER (WHERE occurred_at > now() - ($2::interval[])[3]) AS third_cents,
    SUM(amount_cents) FILTER (WHERE occurred_at > now() - ($2::interval[])[4]) AS fourth_cents
FROM workspaces AS workspace
LEFT JOIN workspace_spend_events AS event ON event.workspace_id = workspace.id
WHERE workspace.id = $1
GROUP BY workspace.id, workspace.url, workspace.budget_limits
