-- What each of the asked workspaces spent in equal buckets of every window that ends now, oldest
-- first, and what its window held at the end of each bucket.
--
-- $1 workspace ids, $2 period names, $3 their lengths, $4 number of buckets
-- $5 whether to tell what the windows held
--
-- A bucket is open at its start and closed at its end, as the window is, so that the buckets' sum
-- is the window's spend. Each boundary is one index descent, whatever the ledger's size; a window
-- at a boundary takes a second one.
SELECT
    workspace.id::text AS workspace_id,
    period.name AS period_name,
    series.bucket_cents,
    series.window_cents
FROM workspaces AS workspace
CROSS JOIN unnest($2::text[], $3::interval[]) AS period (name, length)
CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT event.running_total_cents - event.amount_cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = workspace.id
        ORDER BY event.event_number
        LIMIT 1
    ), 0) AS total_cents
) AS opening
CROSS JOIN LATERAL (
    SELECT
        array_agg(step.bucket_cents ORDER BY step.position)
            FILTER (WHERE step.position > 0) AS bucket_cents,
        array_agg(step.window_cents ORDER BY step.position)
            FILTER (WHERE step.position > 0 AND $5::boolean) AS window_cents
    FROM (
        SELECT
            boundary.position,
            reached.total_cents - lag(reached.total_cents) OVER (ORDER BY boundary.position)
                AS bucket_cents,
            reached.total_cents - before.total_cents AS window_cents
        FROM (
            SELECT
                position,
                now() - period.length + period.length * position / $4::integer AS moment
            FROM generate_series(0, $4::integer) AS position
        ) AS boundary
        CROSS JOIN LATERAL (
            SELECT coalesce((
                SELECT event.running_total_cents
                FROM workspace_spend_events AS event
                WHERE event.workspace_id = workspace.id
                    AND event.occurred_at <= boundary.moment
                ORDER BY event.occurred_at DESC, event.event_number DESC
                LIMIT 1
            ), opening.total_cents) AS total_cents
        ) AS reached
        LEFT JOIN LATERAL (
            SELECT coalesce((
                SELECT event.running_total_cents
                FROM workspace_spend_events AS event
                WHERE event.workspace_id = workspace.id
                    AND event.occurred_at <= boundary.moment - period.length
                ORDER BY event.occurred_at DESC, event.event_number DESC
                LIMIT 1
            ), opening.total_cents) AS total_cents
            WHERE $5::boolean
        ) AS before ON true
    ) AS step
) AS series
WHERE workspace.id = ANY ($1)
    AND workspace.status::text IS DISTINCT FROM 'removed'
