-- The ledger of spend beside the platform's table of workspaces.
--
-- Starts from an empty database or from a platform database: there `workspaces` exists, its id is
-- of another type (UUID), and it has columns that are none of our business. Every key starts with
-- workspace_id, so that the tables can be distributed by it.
--
-- The runner sets gateway.legacy_period to the name of the period that the one legacy limit means.

CREATE TABLE IF NOT EXISTS workspaces (
    id text PRIMARY KEY,
    status text NOT NULL DEFAULT 'online',
    budget_limit bigint,
    monthly_spend bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Columns that the platform may have by the same name are the same thing and are kept.
ALTER TABLE workspaces
    ADD COLUMN IF NOT EXISTS name text,
    ADD COLUMN IF NOT EXISTS url text,
    ADD COLUMN IF NOT EXISTS agent_card jsonb,
    ADD COLUMN IF NOT EXISTS last_heartbeat_at timestamptz,
    ADD COLUMN IF NOT EXISTS uptime_seconds bigint,
    ADD COLUMN IF NOT EXISTS active_tasks bigint,
    ADD COLUMN IF NOT EXISTS current_task text,
    ADD COLUMN IF NOT EXISTS last_error_rate double precision,
    ADD COLUMN IF NOT EXISTS last_sample_error text,
    ADD COLUMN IF NOT EXISTS runtime_state text,
    ADD COLUMN IF NOT EXISTS runtime_metadata jsonb,
    ADD COLUMN IF NOT EXISTS budget_limits jsonb;

UPDATE workspaces
SET budget_limits = jsonb_build_object(current_setting('gateway.legacy_period'), budget_limit)
WHERE budget_limit IS NOT NULL AND coalesce(budget_limits, '{}') = '{}';

-- CREATE TABLE ... AS takes over the id's type, whatever it is, without gluing text.
CREATE TABLE workspace_spend_events AS SELECT id AS workspace_id FROM workspaces WITH NO DATA;

ALTER TABLE workspace_spend_events
    ALTER COLUMN workspace_id SET NOT NULL,
    ADD COLUMN event_number bigint NOT NULL CHECK (event_number > 0),
    ADD COLUMN occurred_at timestamptz NOT NULL,
    ADD COLUMN amount_cents bigint NOT NULL CHECK (amount_cents <> 0),
    ADD COLUMN running_total_cents bigint NOT NULL,
    ADD COLUMN source text NOT NULL CHECK (source IN ('heartbeat', 'opening', 'correction')),
    ADD COLUMN instance_id text NOT NULL DEFAULT '',
    ADD COLUMN counter_epoch text NOT NULL DEFAULT '',
    ADD COLUMN reported_cents bigint,
    ADD CONSTRAINT only_corrections_take_back CHECK (amount_cents > 0 OR source = 'correction'),
    -- The newest row of a workspace (budgets.sql, spend_event_append.sql).
    ADD PRIMARY KEY (workspace_id, event_number);

-- The first row inside a window (budgets.sql).
CREATE INDEX workspace_spend_events_by_time
    ON workspace_spend_events (workspace_id, occurred_at, event_number)
    INCLUDE (amount_cents, running_total_cents);

-- The corrections in a window, between which totals only rise (budgets.sql).
CREATE INDEX workspace_spend_events_taken_back
    ON workspace_spend_events (workspace_id, occurred_at)
    WHERE amount_cents < 0;

-- One high-water mark per stream of cumulative reports.
CREATE TABLE workspace_spend_marks AS SELECT id AS workspace_id FROM workspaces WITH NO DATA;

ALTER TABLE workspace_spend_marks
    ALTER COLUMN workspace_id SET NOT NULL,
    ADD COLUMN instance_id text NOT NULL,
    ADD COLUMN counter_epoch text NOT NULL,
    ADD COLUMN mark_cents bigint NOT NULL CHECK (mark_cents >= 0),
    ADD COLUMN accepted_at timestamptz,
    ADD COLUMN uptime_seconds bigint,
    ADD PRIMARY KEY (workspace_id, instance_id, counter_epoch);

-- Tokens as SHA-256; a token is live until it is revoked.
CREATE TABLE workspace_tokens AS SELECT id AS workspace_id FROM workspaces WITH NO DATA;

ALTER TABLE workspace_tokens
    ALTER COLUMN workspace_id SET NOT NULL,
    ADD COLUMN token_sha256 bytea NOT NULL CHECK (length(token_sha256) = 32),
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN revoked_at timestamptz,
    ADD PRIMARY KEY (workspace_id, token_sha256);

-- What was spent before the ledger existed, booked once at the start of the calendar month, so
-- that a workspace over its budget stays blocked and the first heartbeat books only what is new.
INSERT INTO workspace_spend_events
    (workspace_id, event_number, occurred_at, amount_cents, running_total_cents, source,
     reported_cents)
SELECT id, 1, date_trunc('month', now(), 'UTC'), monthly_spend, monthly_spend, 'opening',
       monthly_spend
FROM workspaces
WHERE monthly_spend > 0;

INSERT INTO workspace_spend_marks (workspace_id, instance_id, counter_epoch, mark_cents)
SELECT id, '', '', monthly_spend
FROM workspaces
WHERE monthly_spend > 0;
