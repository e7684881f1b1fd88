"""PostgreSQL: everything that knows the driver, nothing that knows HTTP."""
