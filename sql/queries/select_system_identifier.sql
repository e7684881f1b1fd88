-- Which cluster this is: one that was made anew has another identifier. The role may not be allowed to read it.
SELECT control.system_identifier::text AS system_identifier
FROM pg_control_system() AS control
