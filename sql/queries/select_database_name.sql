-- Which database of its cluster this is.
SELECT current_database()::text AS database
