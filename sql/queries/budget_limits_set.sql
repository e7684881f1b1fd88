-- Set a workspace's limits, and the platform's column of the one legacy limit with them.
--
-- $1 workspace id, $2 limits by period name, $3 the legacy limit in cents
UPDATE workspaces
SET budget_limits = $2::jsonb,
    budget_limit = $3::bigint
WHERE id = $1
