-- Create a workspace unless it exists; a row comes back only if it was created.
--
-- $1 workspace id, $2 name, $3 the agent's URL, $4 its agent card
INSERT INTO workspaces (id, name, url, agent_card)
VALUES ($1, $2::text, $3::text, $4::jsonb)
ON CONFLICT (id) DO NOTHING
RETURNING id::text AS workspace_id
