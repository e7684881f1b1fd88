-- Since when a window has been at or over its limit without a break: the newest row that brought
-- it there from below. Null if that is further back than $4 rows.
--
-- $1 workspace id, $2 the window's length, $3 the limit in cents, $4 rows to look at
--
-- A window only fills with a row, so no other moment comes into question. Each row looked at costs
-- one index descent.
SELECT max(recent.occurred_at) AS reached_at
FROM (
    SELECT event.occurred_at, event.amount_cents, event.running_total_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = $1
    ORDER BY event.event_number DESC
    LIMIT $4::integer
) AS recent
CROSS JOIN LATERAL (
    SELECT recent.running_total_cents - recent.amount_cents - coalesce((
        SELECT event.running_total_cents - event.amount_cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = $1
            AND event.occurred_at > recent.occurred_at - $2::interval
        ORDER BY event.occurred_at, event.event_number
        LIMIT 1
    ), 0) AS cents
) AS before
WHERE before.cents < $3::bigint
    AND before.cents + recent.amount_cents >= $3::bigint
