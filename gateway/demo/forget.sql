-- Remove the demo's workspaces of an earlier run with all that was booked for them.
--
-- $1 workspace ids
WITH
    events AS (DELETE FROM workspace_spend_events WHERE workspace_id = ANY ($1::text[])),
    marks AS (DELETE FROM workspace_spend_marks WHERE workspace_id = ANY ($1::text[])),
    tokens AS (DELETE FROM workspace_tokens WHERE workspace_id = ANY ($1::text[]))
DELETE FROM workspaces WHERE id = ANY ($1::text[])
