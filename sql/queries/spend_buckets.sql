-- The running total of each of the asked workspaces at the ends of equal buckets of every window
-- that ends now, oldest first; one more than there are buckets, because the first begins, too.
--
-- $1 workspace ids, $2 period names, $3 their lengths, $4 number of buckets
-- $5 how many windows to reach back: 1, or 2 to know what the window held at each of the ends
--
-- The difference of two is what was spent between them, open at its start and closed at its end, as
-- the window is. Each is one index descent, whatever the ledger's size.
SELECT
    workspace.id::text AS workspace_id,
    period.name AS period_name,
    ARRAY(
        SELECT coalesce(
            (
                SELECT event.running_total_cents
                FROM workspace_spend_events AS event
                WHERE event.workspace_id = workspace.id
                    AND event.occurred_at <= now() - period.length * (bucket / $4::float8)
                ORDER BY event.occurred_at DESC, event.event_number DESC
                LIMIT 1
            ),
            opening.total_cents
        )
        FROM generate_series($4::integer * $5::integer, 0, -1) AS bucket
        ORDER BY bucket DESC
    ) AS totals_cents
FROM workspaces AS workspace
CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT event.running_total_cents - event.amount_cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = workspace.id
        ORDER BY event.event_number
        LIMIT 1
    ), 0) AS total_cents
) AS opening
CROSS JOIN unnest($2::text[], $3::interval[]) AS period (name, length)
WHERE workspace.id = ANY ($1)
    AND workspace.status::text IS DISTINCT FROM 'removed'
