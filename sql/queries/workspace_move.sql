-- The agent of a workspace registered again: where it listens now, and its card if it sent one.
--
-- $1 workspace id, $2 the agent's URL, $3 its agent card
UPDATE workspaces
SET url = $2::text,
    agent_card = coalesce($3::jsonb, agent_card)
WHERE id = $1
