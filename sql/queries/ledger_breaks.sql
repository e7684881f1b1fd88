-- Workspaces whose ledger is broken: a running total, a number or a time that does not follow
-- from the row before.
--
-- $1 workspace ids
--
-- Before row 1 nothing was spent; before a first row of another number lies what was pruned.
SELECT DISTINCT broken.workspace_id::text AS workspace_id
FROM (
    SELECT
        event.workspace_id,
        event.running_total_cents
            - coalesce(
                lag(event.running_total_cents) OVER ledger,
                CASE event.event_number WHEN 1 THEN 0 END
            )
            - event.amount_cents AS missing_cents,
        event.event_number - lag(event.event_number) OVER ledger AS step,
        event.occurred_at - lag(event.occurred_at) OVER ledger AS elapsed
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = ANY ($1)
    WINDOW ledger AS (PARTITION BY event.workspace_id ORDER BY event.event_number)
) AS broken
WHERE broken.missing_cents <> 0 OR broken.step <> 1 OR broken.elapsed < interval '0'
