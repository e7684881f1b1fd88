-- How large the ledger is: rows as the planner estimates them, and bytes with all indexes.
SELECT
    greatest(relation.reltuples, 0)::double precision AS rows_estimate,
    pg_total_relation_size(relation.oid)::double precision AS size_bytes
FROM pg_class AS relation
WHERE relation.oid = to_regclass('workspace_spend_events')
