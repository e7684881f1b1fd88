-- The limits and the spend in every window, for each of the asked workspaces that exists.
--
-- $1 workspace ids, in the id's own type
-- $2 the periods' lengths; the answer has what was spent in their order
-- $3 the moment that counts as now; null means now
--
-- Per period one index descent finds the first row inside the window; what was spent is the newest
-- running total less the running total before that row. This equals the definition
--     SUM(amount_cents) FILTER (WHERE occurred_at > now - length)
-- whatever the ledger's size, and stays right after old rows are pruned.
SELECT
    workspace.id::text AS workspace_id,
    workspace.url,
    workspace.budget_limits,
    clock.now AS as_of,
    ARRAY(
        SELECT coalesce(newest.total_cents - first_inside.total_before_cents, 0)
        FROM unnest($2::interval[]) WITH ORDINALITY AS period (length, position)
        LEFT JOIN LATERAL (
            SELECT event.running_total_cents - event.amount_cents AS total_before_cents
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = workspace.id
                AND event.occurred_at > clock.now - period.length
            ORDER BY event.occurred_at, event.event_number
            LIMIT 1
        ) AS first_inside ON true
        ORDER BY period.position
    ) AS spend_cents
FROM (SELECT coalesce($3::timestamptz, now()) AS now) AS clock
CROSS JOIN workspaces AS workspace
LEFT JOIN LATERAL (
    SELECT event.running_total_cents AS total_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = workspace.id
    ORDER BY event.event_number DESC
    LIMIT 1
) AS newest ON true
WHERE workspace.id = ANY ($1)
    AND workspace.status::text IS DISTINCT FROM 'removed'
