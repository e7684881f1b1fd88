-- Of the asked workspaces, those whose ledger begins with a row that is kept no longer.
--
-- $1 workspace ids, $2 how long rows are kept
--
-- A single row is the newest, which stays for ever: see ledger_prune.sql.
SELECT workspace.id::text AS workspace_id
FROM workspaces AS workspace
WHERE workspace.id = ANY ($1)
    AND (
        SELECT count(*) = 2 AND min(oldest.occurred_at) < now() - $2::interval
        FROM (
            SELECT event.occurred_at
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = workspace.id
            ORDER BY event.event_number
            LIMIT 2
        ) AS oldest
    )
