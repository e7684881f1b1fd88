-- A stream's high-water mark, null columns if the stream is new, and the database's time.
--
-- $1 workspace id, $2 instance id, $3 counter epoch
SELECT
    clock_timestamp() AS received_at,
    mark.mark_cents,
    mark.accepted_at,
    mark.uptime_seconds
FROM (SELECT) AS once
LEFT JOIN workspace_spend_marks AS mark
    ON mark.workspace_id = $1 AND mark.instance_id = $2::text AND mark.counter_epoch = $3::text
