-- One page of workspace ids in the asked order.
--
-- $1 sort by: 'spend', 'id' or 'last_heartbeat_at'; $2 whether the order is descending
-- $3 the length of the period whose spend sorts
-- $4 a part of the id or name to search for, null for all
-- $5 rows at most, $6 rows to skip
WITH matching AS (
    SELECT
        workspace.id,
        workspace.id::text AS workspace_id,
        workspace.last_heartbeat_at
    FROM workspaces AS workspace
    WHERE workspace.status::text IS DISTINCT FROM 'removed'
        AND (
            $4::text IS NULL
            OR strpos(lower(workspace.id::text), lower($4::text)) > 0
            OR strpos(lower(workspace.name), lower($4::text)) > 0
        )
),
ranked AS (
    SELECT
        matching.workspace_id,
        CASE WHEN $1::text = 'last_heartbeat_at' THEN matching.last_heartbeat_at END AS seen_at,
        CASE WHEN $1::text = 'spend' THEN spent.cents END AS spend_cents
    FROM matching
    LEFT JOIN LATERAL (
        SELECT (
            SELECT event.running_total_cents
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = matching.id
            ORDER BY event.event_number DESC
            LIMIT 1
        ) - (
            SELECT event.running_total_cents - event.amount_cents
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = matching.id AND event.occurred_at > now() - $3::interval
            ORDER BY event.occurred_at, event.event_number
            LIMIT 1
        ) AS cents
        WHERE $1::text = 'spend'
    ) AS spent ON true
)
SELECT ranked.workspace_id
FROM ranked
ORDER BY
    CASE WHEN $2::boolean THEN ranked.spend_cents END DESC NULLS LAST,
    CASE WHEN NOT $2::boolean THEN ranked.spend_cents END ASC NULLS FIRST,
    CASE WHEN $2::boolean THEN ranked.seen_at END DESC NULLS LAST,
    CASE WHEN NOT $2::boolean THEN ranked.seen_at END ASC NULLS FIRST,
    CASE WHEN $2::boolean AND $1::text = 'id' THEN ranked.workspace_id END DESC,
    ranked.workspace_id ASC
LIMIT $5::bigint OFFSET $6::bigint
