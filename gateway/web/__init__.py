"""HTTP: everything that knows aiohttp, nothing that knows the database driver."""
