-- Keep a change of limits of a workspace whose lock the transaction holds.
--
-- $1 workspace id, $2 the operator's name, $3 limits by period name before, $4 and after,
-- $5 the reason that was given, or null
--
-- The clock is read here: while it waited for the lock, the transaction's own time grew old.
INSERT INTO workspace_budget_changes
    (workspace_id, change_number, changed_at, changed_by, limits_before, limits_after, reason)
VALUES (
    $1,
    (
        SELECT coalesce(max(earlier.change_number), 0) + 1
        FROM workspace_budget_changes AS earlier
        WHERE earlier.workspace_id = $1
    ),
    clock_timestamp(),
    $2::text,
    $3::jsonb,
    $4::jsonb,
    $5::text
)
