-- The type of a workspace's id: text on a database of our own, uuid on the platform's.
SELECT format_type(attribute.atttypid, NULL) AS id_type
FROM pg_attribute AS attribute
WHERE attribute.attrelid = to_regclass('workspaces') AND attribute.attname = 'id'
