-- How often, and how long in all, a limit would have refused a workspace's calls between two moments.
--
-- $1 workspace id, $2 the window's length, $3 the limit in cents, $4 from when, $5 to when
--
-- A window's spend is a step function of time: a row enters it when it occurred and leaves it
-- a length later. At each step the sum up to there is the spend until the next one; rows of one
-- moment count together, because a sum in the order of the moments has all of a moment's rows in it.
-- Calls are refused while the spend is at or over the limit. Times of refusal that touch are one
-- stretch.
SELECT
    count(*) FILTER (WHERE refused.is_first) AS stretch_count,
    coalesce(sum(refused.ends_at - refused.moment), interval '0') AS duration
FROM (
    SELECT
        spend.moment,
        spend.ends_at,
        lag(spend.ends_at) OVER (ORDER BY spend.moment) IS DISTINCT FROM spend.moment AS is_first
    FROM (
        SELECT
            step.moment,
            sum(step.cents) OVER by_time AS cents,
            lead(step.moment, 1, $5::timestamptz) OVER by_time AS ends_at
        FROM (
            -- The first moment is a step although nothing happens: a limit of 0 stands from it.
            SELECT $4::timestamptz AS moment, 0::bigint AS cents
            UNION ALL
            -- What is in the window by then entered before.
            SELECT greatest(event.occurred_at, $4::timestamptz), event.amount_cents
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = $1
                AND event.occurred_at > $4::timestamptz - $2::interval
                AND event.occurred_at <= $5::timestamptz
            UNION ALL
            SELECT event.occurred_at + $2::interval, - event.amount_cents
            FROM workspace_spend_events AS event
            WHERE event.workspace_id = $1
                AND event.occurred_at > $4::timestamptz - $2::interval
                AND event.occurred_at <= $5::timestamptz - $2::interval
        ) AS step
        WINDOW by_time AS (ORDER BY step.moment)
    ) AS spend
    WHERE spend.cents >= $3::bigint AND spend.moment < spend.ends_at
) AS refused
