-- When room would return in a workspace's windows if they had the asked limits, all of them reached;
-- null where no row's leaving makes room.
--
-- $1 workspace id, $2 period names, $3 their lengths, $4 limits in cents over 0
-- $5 the moment that counts as now
--
-- The same moment as budgets.sql finds by halving for limits that are stored, here row by row: it is
-- the first after which what is left in the window is under the limit. Rows of one moment leave
-- together, so what is left is told by the last of them.
SELECT
    period.name AS period_name,
    (
        SELECT min(leaving.occurred_at) + period.length
        FROM (
            SELECT DISTINCT ON (event.occurred_at)
                event.occurred_at,
                newest.running_total_cents - event.running_total_cents AS left_cents
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = $1
                AND event.occurred_at > $5::timestamptz - period.length
            ORDER BY event.occurred_at DESC, event.event_number DESC
        ) AS leaving
        WHERE leaving.left_cents < period.limit_cents
    ) AS room_at
FROM unnest($2::text[], $3::interval[], $4::bigint[]) AS period (name, length, limit_cents)
CROSS JOIN (
    SELECT event.running_total_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = $1
    ORDER BY event.event_number DESC
    LIMIT 1
) AS newest
