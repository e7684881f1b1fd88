-- Every change of a workspace's limits: who, when, from what to what, and why.
--
-- Append-only, as the ledger is. Rows are numbered per workspace without a gap, under the
-- workspace's row lock; the number is the order, whatever the server's clock does.

-- CREATE TABLE ... AS takes over the id's type, whatever it is, without gluing text.
CREATE TABLE workspace_budget_changes AS SELECT id AS workspace_id FROM workspaces WITH NO DATA;

ALTER TABLE workspace_budget_changes
    ALTER COLUMN workspace_id SET NOT NULL,
    ADD COLUMN change_number bigint NOT NULL CHECK (change_number > 0),
    ADD COLUMN changed_at timestamptz NOT NULL,
    ADD COLUMN changed_by text NOT NULL CHECK (changed_by <> ''),
    ADD COLUMN limits_before jsonb NOT NULL,
    ADD COLUMN limits_after jsonb NOT NULL,
    ADD COLUMN reason text CHECK (length(reason) BETWEEN 1 AND 500),
    ADD CONSTRAINT something_changed CHECK (limits_before <> limits_after),
    -- A page of the history, newest first (budget_changes.sql).
    ADD PRIMARY KEY (workspace_id, change_number);
