-- One page of workspace ids in the asked order.
--
-- $1 sort by: 'spend', 'used', 'id', 'name' or 'last_heartbeat_at'; $2 whether it descends
-- $3 the length of the period whose spend sorts
-- $4 a part of the id or name to search for, null for all
-- $5 rows at most, $6 rows to skip
-- $7 period names, $8 their lengths: 'used' is the largest part of a limit that is spent
WITH matching AS (
    SELECT
        workspace.id,
        workspace.id::text AS workspace_id,
        lower(coalesce(workspace.name, workspace.id::text)) AS name,
        workspace.last_heartbeat_at,
        workspace.budget_limits
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
        CASE $1::text WHEN 'id' THEN matching.workspace_id WHEN 'name' THEN matching.name END
            AS text,
        CASE WHEN $1::text = 'last_heartbeat_at' THEN matching.last_heartbeat_at END AS seen_at,
        CASE WHEN $1::text IN ('spend', 'used') THEN measured.amount END AS amount
    FROM matching
    LEFT JOIN LATERAL (
        SELECT
            CASE $1::text
                WHEN 'spend' THEN max(spent.cents)
                -- A limit of 0 is reached by any spend, none included.
                ELSE max(coalesce(coalesce(spent.cents, 0) / nullif(period.limit_cents, 0), 1e9))
                    FILTER (WHERE period.limit_cents IS NOT NULL)
            END AS amount
        FROM (
            SELECT $3::interval AS length, NULL::numeric AS limit_cents
            WHERE $1::text = 'spend'
            UNION ALL
            SELECT
                each.length,
                CASE jsonb_typeof(matching.budget_limits -> each.name)
                    WHEN 'number' THEN (matching.budget_limits -> each.name)::numeric
                END
            FROM unnest($7::text[], $8::interval[]) AS each (name, length)
            WHERE $1::text = 'used'
        ) AS period
        CROSS JOIN LATERAL (
            SELECT (
                SELECT event.running_total_cents
                FROM workspace_spend_events AS event
                WHERE event.workspace_id = matching.id
                ORDER BY event.event_number DESC
                LIMIT 1
            ) - (
                SELECT event.running_total_cents - event.amount_cents
                FROM workspace_spend_events AS event
                WHERE event.workspace_id = matching.id
                    AND event.occurred_at > now() - period.length
                ORDER BY event.occurred_at, event.event_number
                LIMIT 1
            ) AS cents
        ) AS spent
    ) AS measured ON true
)
SELECT ranked.workspace_id
FROM ranked
ORDER BY
    CASE WHEN $2::boolean THEN ranked.amount END DESC NULLS LAST,
    CASE WHEN NOT $2::boolean THEN ranked.amount END ASC NULLS FIRST,
    CASE WHEN $2::boolean THEN ranked.seen_at END DESC NULLS LAST,
    CASE WHEN NOT $2::boolean THEN ranked.seen_at END ASC NULLS FIRST,
    CASE WHEN $2::boolean THEN ranked.text END DESC,
    CASE WHEN NOT $2::boolean THEN ranked.text END ASC,
    ranked.workspace_id ASC
LIMIT $5::bigint OFFSET $6::bigint
