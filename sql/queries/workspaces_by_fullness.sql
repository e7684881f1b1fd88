-- One page of workspace ids by how soon the first of their limits is reached, if they go on spending
-- at the present rate, and nothing leaves a window meanwhile.
--
-- $1 whether the last comes first
-- $2 a part of the id or name to search for, null for all
-- $3 rows at most, $4 rows to skip
-- $5 period names, $6 their lengths
-- $7 into how many parts a period is divided for its rate, which is that of the newest part
--
-- What leaves makes it later, maybe never, which only the buckets of a window can tell, at a cost of
-- ten times as much. What is not reached within the period's length never is: by then as much leaves
-- as comes.
SELECT workspace.id::text AS workspace_id
FROM workspaces AS workspace
LEFT JOIN LATERAL (
    SELECT event.running_total_cents AS total_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = workspace.id
    ORDER BY event.event_number DESC
    LIMIT 1
) AS newest ON true
CROSS JOIN LATERAL (
    SELECT coalesce(min(reached.parts) FILTER (WHERE reached.parts <= $7::integer), 1e9) AS parts
    FROM (
        SELECT
            each.length,
            CASE jsonb_typeof(workspace.budget_limits -> each.name)
                WHEN 'number' THEN (workspace.budget_limits -> each.name)::numeric
            END AS limit_cents
        FROM unnest($5::text[], $6::interval[]) AS each (name, length)
    ) AS period
    -- Joined, not selected: an expression would be worked out wherever it is named.
    LEFT JOIN LATERAL (
        SELECT newest.total_cents - (event.running_total_cents - event.amount_cents) AS cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = workspace.id
            AND event.occurred_at > now() - period.length
        ORDER BY event.occurred_at, event.event_number
        LIMIT 1
    ) AS spent ON true
    LEFT JOIN LATERAL (
        SELECT newest.total_cents - (event.running_total_cents - event.amount_cents) AS cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = workspace.id
            AND event.occurred_at > now() - period.length / $7::integer
        ORDER BY event.occurred_at, event.event_number
        LIMIT 1
    ) AS recent ON true
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN coalesce(spent.cents, 0) >= period.limit_cents THEN 0
            WHEN recent.cents > 0 THEN (period.limit_cents - spent.cents) / recent.cents
        END AS parts
    ) AS reached
    WHERE period.limit_cents IS NOT NULL
) AS first
WHERE workspace.status::text IS DISTINCT FROM 'removed'
    AND (
        $2::text IS NULL
        OR strpos(lower(workspace.id::text), lower($2::text)) > 0
        OR strpos(lower(workspace.name), lower($2::text)) > 0
    )
ORDER BY
    CASE WHEN $1::boolean THEN first.parts END DESC,
    CASE WHEN NOT $1::boolean THEN first.parts END ASC,
    workspace_id ASC
LIMIT $3::bigint OFFSET $4::bigint
