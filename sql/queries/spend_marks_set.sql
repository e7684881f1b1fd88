-- Move the high-water marks of streams, each of them named once.
--
-- $1 workspace ids, $2 their instance ids, $3 their counter epochs, $4 the marks in cents,
-- $5 when the heartbeats were accepted, $6 the uptimes they told
--
-- The comparison in `typed`, which nothing reads, gives $1 the type of the id.
WITH typed AS (SELECT FROM workspaces WHERE id = ANY ($1))
INSERT INTO workspace_spend_marks
    (workspace_id, instance_id, counter_epoch, mark_cents, accepted_at, uptime_seconds)
SELECT *
FROM unnest($1, $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::bigint[])
ON CONFLICT (workspace_id, instance_id, counter_epoch) DO UPDATE
SET mark_cents = excluded.mark_cents,
    accepted_at = excluded.accepted_at,
    uptime_seconds = excluded.uptime_seconds
