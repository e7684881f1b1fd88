-- A page of the changes of a workspace's limits, newest first; one row of nulls if there are none,
-- and no row if there is no such workspace.
--
-- $1 workspace id, $2 rows at most, $3 the number that all of them are below; null: all
--
-- Numbers have no gap, so the newest one counts them.
SELECT
    (
        SELECT coalesce(max(newest.change_number), 0)
        FROM workspace_budget_changes AS newest
        WHERE newest.workspace_id = workspace.id
    ) AS change_count,
    change.change_number,
    change.changed_at,
    change.changed_by,
    change.limits_before,
    change.limits_after,
    change.reason
FROM workspaces AS workspace
LEFT JOIN LATERAL (
    SELECT kept.*
    FROM workspace_budget_changes AS kept
    WHERE kept.workspace_id = workspace.id
        AND kept.change_number < coalesce($3::bigint, 9223372036854775807)
    ORDER BY kept.change_number DESC
    LIMIT $2::bigint
) AS change ON true
WHERE workspace.id = $1 AND workspace.status::text IS DISTINCT FROM 'removed'
ORDER BY change.change_number DESC
