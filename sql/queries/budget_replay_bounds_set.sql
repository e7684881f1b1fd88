-- Let the transaction's statements take no longer than this, and sort in memory up to that size.
--
-- $1 the time, $2 the size, both with their units
SELECT
    set_config('statement_timeout', $1::text, true) AS statement_timeout,
    set_config('work_mem', $2::text, true) AS work_mem
