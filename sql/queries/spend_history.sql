-- What a workspace spent in each of $3 equal buckets of the window that ends now; no row if
-- there is no such workspace.
--
-- $1 workspace id, $2 the window's length, $3 number of buckets
--
-- A bucket is open at its start and closed at its end, as the window is, so that the buckets' sum
-- is the window's spend. Each boundary is one index descent, whatever the ledger's size.
WITH boundary AS (
    SELECT
        position,
        now() - $2::interval + $2::interval * position / $3::integer AS moment
    FROM generate_series(0, $3::integer) AS position
),
reached AS (
    SELECT
        boundary.position,
        boundary.moment,
        coalesce(
            (
                SELECT event.running_total_cents
                FROM workspace_spend_events AS event
                WHERE event.workspace_id = $1 AND event.occurred_at <= boundary.moment
                ORDER BY event.occurred_at DESC, event.event_number DESC
                LIMIT 1
            ),
            (
                SELECT event.running_total_cents - event.amount_cents
                FROM workspace_spend_events AS event
                WHERE event.workspace_id = $1
                ORDER BY event.event_number
                LIMIT 1
            ),
            0
        ) AS total_cents
    FROM boundary
)
SELECT
    bucket_start.moment AS starts_at,
    bucket_end.total_cents - bucket_start.total_cents AS spend_cents
FROM reached AS bucket_start
JOIN reached AS bucket_end ON bucket_end.position = bucket_start.position + 1
JOIN workspaces AS workspace
    ON workspace.id = $1 AND workspace.status::text IS DISTINCT FROM 'removed'
ORDER BY bucket_start.position
