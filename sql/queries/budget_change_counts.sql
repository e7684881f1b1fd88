-- How often the limits of the asked workspaces were changed; of those that never were, nothing.
--
-- $1 workspace ids
SELECT
    change.workspace_id::text AS workspace_id,
    max(change.change_number) AS change_count
FROM workspace_budget_changes AS change
WHERE change.workspace_id = ANY ($1)
GROUP BY change.workspace_id
