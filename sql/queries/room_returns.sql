-- When room returns in the windows that are at or over their limit; no row for any other.
--
-- $1 workspace ids, in the id's own type
-- $2 period names, $3 their lengths
-- $4 the moment that counts as now
--
-- The row that must leave the window is the first after which the running total is above the
-- threshold, the newest total less the limit. It is found by halving, which costs a few index
-- descents, whatever the ledger's size. A limit of 0 has no such row: waiting never helps.
SELECT
    workspace.id::text AS workspace_id,
    period.name AS period_name,
    leaving.occurred_at + period.length AS room_at
FROM (SELECT $4::timestamptz AS now) AS clock
CROSS JOIN unnest($2::text[], $3::interval[]) AS period (name, length)
CROSS JOIN workspaces AS workspace
LEFT JOIN LATERAL (
    SELECT event.event_number, event.running_total_cents AS total_cents
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
CROSS JOIN LATERAL (
    WITH RECURSIVE stretch_end AS (
        -- Between corrections totals only rise. Rows of one moment leave together, so a correction
        -- ends one stretch before its moment, and another with the last row of its moment.
        SELECT newest.event_number AS last_number, false AS is_moment
        UNION
        SELECT last_row.event_number, last_row.is_moment
        FROM workspace_spend_events AS taken_back
        CROSS JOIN LATERAL (
            (SELECT event.event_number, false AS is_moment
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = workspace.id
                AND event.occurred_at >= first_inside.occurred_at
                AND event.occurred_at < taken_back.occurred_at
            ORDER BY event.occurred_at DESC, event.event_number DESC
            LIMIT 1)
            UNION ALL
            (SELECT event.event_number, true AS is_moment
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = workspace.id
                AND event.occurred_at = taken_back.occurred_at
            ORDER BY event.occurred_at DESC, event.event_number DESC
            LIMIT 1)
        ) AS last_row
        WHERE taken_back.workspace_id = workspace.id
            AND taken_back.occurred_at >= first_inside.occurred_at
            AND taken_back.amount_cents < 0
    ),
    stretch AS (
        SELECT
            coalesce(
                lag(last_number) OVER (ORDER BY last_number, is_moment DESC) + 1,
                first_inside.event_number
            ) AS first_number,
            last_number,
            is_moment
        FROM stretch_end
        WHERE threshold.total_cents IS NOT NULL
    ),
    -- Halve the first stretch that ends above the threshold until one row is left. LIMIT 1 makes
    -- each row a descent of its own: a plan made while the ledger was empty would join it whole.
    search (low, high) AS (
        (SELECT
            CASE WHEN stretch.is_moment THEN stretch.last_number ELSE stretch.first_number END,
            stretch.last_number
        FROM stretch
        CROSS JOIN LATERAL (
            SELECT event.running_total_cents AS total_cents
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = workspace.id AND event.event_number = stretch.last_number
            LIMIT 1
        ) AS reached
        WHERE reached.total_cents > threshold.total_cents
        ORDER BY stretch.last_number, stretch.is_moment DESC
        LIMIT 1)
        UNION ALL
        SELECT
            CASE WHEN middle.is_above THEN search.low ELSE middle.event_number + 1 END,
            CASE WHEN middle.is_above THEN middle.event_number ELSE search.high END
        FROM search
        CROSS JOIN LATERAL (
            SELECT
                event.event_number,
                event.running_total_cents > threshold.total_cents AS is_above
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = workspace.id
                AND event.event_number = (search.low + search.high) / 2
            LIMIT 1
        ) AS middle
        WHERE search.low < search.high
    )
    SELECT event.occurred_at
    FROM search
    CROSS JOIN LATERAL (
        SELECT event.occurred_at
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = workspace.id AND event.event_number = search.low
        LIMIT 1
    ) AS event
    WHERE search.low = search.high
) AS leaving
WHERE workspace.id = ANY ($1)
