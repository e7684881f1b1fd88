-- Delete the beginning of a workspace's ledger: the rows before the first that is kept.
--
-- $1 workspace id, $2 how long rows are kept
-- $3 the number to begin at, behind what was deleted before; $4 rows at most
--
-- What goes is always a beginning, never a row from the middle: a window's spend is the newest
-- running total less the total before the window, which the first row left still tells. The newest
-- row stays however old it is, because the next row takes its number and total up from there.
--
-- Beginning at $3 spares a way over the index entries of all that was deleted but not yet vacuumed.
DELETE FROM workspace_spend_events AS event
WHERE event.workspace_id = $1
    AND event.event_number >= $3::bigint
    AND event.event_number < (
        SELECT least(
            min(oldest.event_number) FILTER (WHERE oldest.occurred_at >= now() - $2::interval),
            max(oldest.event_number)
        )
        FROM (
            SELECT first.event_number, first.occurred_at
            FROM workspace_spend_events AS first
            WHERE first.workspace_id = $1 AND first.event_number >= $3::bigint
            ORDER BY first.event_number
            LIMIT $4::bigint + 1
        ) AS oldest
    )
RETURNING event.event_number
