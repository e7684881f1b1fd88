-- The definition that budgets.sql must equal: the plain sum over the rows of every window.
--
-- $1 workspace ids, $2 period names, $3 their lengths, $4 the moment that counts as now; null: now
SELECT
    workspace.id::text AS workspace_id,
    period.name AS period_name,
    spent.cents::bigint AS spend_cents
FROM workspaces AS workspace
CROSS JOIN unnest($2::text[], $3::interval[]) AS period (name, length)
CROSS JOIN LATERAL (
    SELECT
        coalesce(
            SUM(event.amount_cents) FILTER (
                WHERE event.occurred_at > coalesce($4::timestamptz, now()) - period.length
            ),
            0
        ) AS cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = workspace.id
) AS spent
WHERE workspace.id = ANY ($1)
