-- Let the transaction wait no longer than this for any lock; it fails then.
--
-- $1 the time, with its unit
SELECT set_config('lock_timeout', $1::text, true) AS lock_timeout
