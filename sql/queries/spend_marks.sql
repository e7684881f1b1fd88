-- The high-water mark of each asked stream, null columns if it is new, and the database's time.
--
-- $1 workspace ids, $2 their instance ids, $3 their counter epochs
--
-- The comparison in `typed`, which nothing reads, gives $1 the type of the id. LIMIT 1 makes each
-- mark a descent of its own: a plan made while there were few would read all of them.
WITH typed AS (SELECT FROM workspaces WHERE id = ANY ($1))
SELECT
    (SELECT clock_timestamp()) AS received_at,
    asked.workspace_id::text AS workspace_id,
    asked.instance_id,
    asked.counter_epoch,
    mark.mark_cents,
    mark.accepted_at,
    mark.uptime_seconds
FROM unnest($1, $2::text[], $3::text[]) AS asked (workspace_id, instance_id, counter_epoch)
LEFT JOIN LATERAL (
    SELECT stored.mark_cents, stored.accepted_at, stored.uptime_seconds
    FROM workspace_spend_marks AS stored
    WHERE stored.workspace_id = asked.workspace_id
        AND stored.instance_id = asked.instance_id
        AND stored.counter_epoch = asked.counter_epoch
    LIMIT 1
) AS mark ON true
