-- The limits and the spend in every window, for each of the asked workspaces that exists.
--
-- $1 workspace ids, in the id's own type
-- $2 period names, $3 their lengths
-- $4 the moment that counts as now; null means now
--
-- Per period one index descent finds the first row inside the window; what was spent is the newest
-- running total less the running total before that row. This equals the definition
--     SUM(amount_cents) FILTER (WHERE occurred_at > now - length)
-- whatever the ledger's size, and stays right after old rows are pruned. A period whose limit is
-- reached also tells when room returns: the first row after which the running total is higher than
-- the newest total less the limit is the row that must leave the window.
SELECT
    workspace.id::text AS workspace_id,
    workspace.url,
    workspace.budget_limits,
    clock.now AS as_of,
    jsonb_object_agg(period.name, spent.cents) FILTER (WHERE spent.cents <> 0) AS spend_cents,
    jsonb_object_agg(period.name, leaving.occurred_at + period.length)
        FILTER (WHERE leaving.occurred_at IS NOT NULL) AS room_at
FROM (SELECT coalesce($4::timestamptz, now()) AS now) AS clock
CROSS JOIN unnest($2::text[], $3::interval[]) AS period (name, length)
CROSS JOIN workspaces AS workspace
LEFT JOIN LATERAL (
    SELECT event.running_total_cents AS total_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = workspace.id
    ORDER BY event.event_number DESC
    LIMIT 1
) AS newest ON true
LEFT JOIN LATERAL (
    SELECT
        event.event_number,
        event.occurred_at,
        event.running_total_cents - event.amount_cents AS total_before_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = workspace.id
        AND event.occurred_at > clock.now - period.length
    ORDER BY event.occurred_at, event.event_number
    LIMIT 1
) AS first_inside ON true
CROSS JOIN LATERAL (
    SELECT
        coalesce(newest.total_cents - first_inside.total_before_cents, 0) AS cents,
        -- Not a number: somebody edited the column by hand, and the period has no limit.
        CASE jsonb_typeof(workspace.budget_limits -> period.name)
            WHEN 'number' THEN (workspace.budget_limits -> period.name)::numeric
        END AS limit_cents
) AS spent
CROSS JOIN LATERAL (
    SELECT CASE WHEN spent.limit_cents > 0 AND spent.cents >= spent.limit_cents
        THEN newest.total_cents - floor(spent.limit_cents)::bigint
    END AS total_cents
) AS threshold
LEFT JOIN LATERAL (
    -- Totals only rose in this window: the index of totals finds the row at once.
    (SELECT event.occurred_at
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = workspace.id
        AND event.running_total_cents > threshold.total_cents
        AND event.event_number >= first_inside.event_number
        AND NOT EXISTS (
            SELECT FROM workspace_spend_events AS taken_back
            WHERE taken_back.workspace_id = workspace.id
                AND taken_back.occurred_at >= first_inside.occurred_at
                AND taken_back.amount_cents < 0
        )
    ORDER BY event.running_total_cents, event.event_number
    LIMIT 1)
    UNION ALL
    -- A correction lies in this window: totals also fell, so the rows are read in order of time.
    (SELECT event.occurred_at
    FROM workspace_spend_events AS event
    WHERE threshold.total_cents IS NOT NULL
        AND event.workspace_id = workspace.id
        AND event.occurred_at >= first_inside.occurred_at
        AND event.event_number >= first_inside.event_number
        AND event.running_total_cents > threshold.total_cents
        -- Rows of one moment leave together: only the last of them tells what they leave behind.
        AND event.event_number = (
            SELECT max(together.event_number)
            FROM workspace_spend_events AS together
            WHERE together.workspace_id = event.workspace_id
                AND together.occurred_at = event.occurred_at
        )
    ORDER BY event.occurred_at, event.event_number
    LIMIT 1)
    LIMIT 1
) AS leaving ON true
WHERE workspace.id = ANY ($1)
    AND workspace.status::text IS DISTINCT FROM 'removed'
GROUP BY workspace.id, workspace.url, workspace.budget_limits, clock.now
