-- How many workspaces match a search, on all pages.
--
-- $1 a part of the id or name to search for, null for all
SELECT count(*) AS matching_count
FROM workspaces AS workspace
WHERE workspace.status::text IS DISTINCT FROM 'removed'
    AND (
        $1::text IS NULL
        OR strpos(lower(workspace.id::text), lower($1::text)) > 0
        OR strpos(lower(workspace.name), lower($1::text)) > 0
    )
