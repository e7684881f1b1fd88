-- Book the sample history of a workspace that has no rows yet.
--
-- $1 workspace id, $2 ages as intervals, $3 amounts in cents, one for each age
INSERT INTO workspace_spend_events
    (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source,
     instance_id)
SELECT
    $1::text,
    row_number() OVER oldest_first,
    now() - earlier.age,
    earlier.amount_cents,
    sum(earlier.amount_cents) OVER oldest_first,
    'opening',
    'sample history'
FROM unnest($2::interval[], $3::bigint[]) AS earlier (age, amount_cents)
WINDOW oldest_first AS (ORDER BY earlier.age DESC)
