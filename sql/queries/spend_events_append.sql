-- Append rows to the ledgers of workspaces whose locks the transaction holds; the rows of one
-- workspace come in the order given.
--
-- $1 workspace ids, $2 amounts in cents, $3 instance ids, $4 counter epochs,
-- $5 what was reported in cents, $6 the source of all of them
--
-- Times never go back, even if the server's clock does: the windows rely on it. The comparison in
-- `typed`, which nothing reads, gives $1 the type of the id.
WITH typed AS (SELECT FROM workspaces WHERE id = ANY ($1))
INSERT INTO workspace_spend_events
    (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source,
     instance_id, counter_epoch, reported_cents)
SELECT
    booked.workspace_id,
    coalesce(newest.event_number, 0) + row_number() OVER ledger,
    greatest((SELECT clock_timestamp()), newest.occurred_at),
    booked.amount_cents,
    coalesce(newest.running_total_cents, 0) + (sum(booked.amount_cents) OVER ledger)::bigint,
    $6::text,
    booked.instance_id,
    booked.counter_epoch,
    booked.reported_cents
FROM unnest($1, $2::bigint[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY
    AS booked (workspace_id, amount_cents, instance_id, counter_epoch, reported_cents, position)
LEFT JOIN LATERAL (
    SELECT event.event_number, event.occurred_at, event.running_total_cents
    FROM workspace_spend_events AS event
    WHERE event.workspace_id = booked.workspace_id
    ORDER BY event.event_number DESC
    LIMIT 1
) AS newest ON true
WINDOW ledger AS (PARTITION BY booked.workspace_id ORDER BY booked.position)
