-- Move a stream's high-water mark.
--
-- $1 workspace id, $2 instance id, $3 counter epoch, $4 mark in cents,
-- $5 when the heartbeat was accepted, $6 the uptime it told
INSERT INTO workspace_spend_marks
    (workspace_id, instance_id, counter_epoch, mark_cents, accepted_at, uptime_seconds)
VALUES ($1, $2::text, $3::text, $4::bigint, $5::timestamptz, $6::bigint)
ON CONFLICT (workspace_id, instance_id, counter_epoch) DO UPDATE
SET mark_cents = excluded.mark_cents,
    accepted_at = excluded.accepted_at,
    uptime_seconds = excluded.uptime_seconds
