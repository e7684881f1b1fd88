-- What a window held at a moment, and since when it had been at or over a limit by then: the newest
-- row that brought it there from below.
--
-- $1 workspace id, $2 the window's length, $3 the limit in cents, $4 rows to look at
-- $5 the moment; null means now
--
-- A window only fills with a row, so no other moment comes into question. `reached_at` is null if
-- no row did among those looked at; they reach back to `looked_back_to`, null for the beginning.
-- Each row looked at costs one index descent.
SELECT
    coalesce((
        SELECT event.running_total_cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = $1 AND event.occurred_at <= clock.now
        ORDER BY event.occurred_at DESC, event.event_number DESC
        LIMIT 1
    ) - (
        SELECT event.running_total_cents - event.amount_cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = $1
            AND event.occurred_at > clock.now - $2::interval
            AND event.occurred_at <= clock.now
        ORDER BY event.occurred_at, event.event_number
        LIMIT 1
    ), 0) AS window_cents,
    looked_at.reached_at,
    looked_at.looked_back_to
FROM (SELECT coalesce($5::timestamptz, now()) AS now) AS clock
CROSS JOIN LATERAL (
    SELECT
        max(recent.occurred_at) FILTER (
            WHERE before.cents < $3::bigint AND before.cents + recent.amount_cents >= $3::bigint
        ) AS reached_at,
        CASE WHEN count(*) = $4::integer THEN min(recent.occurred_at) END AS looked_back_to
    FROM (
        SELECT event.occurred_at, event.amount_cents, event.running_total_cents
        FROM workspace_spend_events AS event
        WHERE event.workspace_id = $1 AND event.occurred_at <= clock.now
        ORDER BY event.occurred_at DESC, event.event_number DESC
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
) AS looked_at
