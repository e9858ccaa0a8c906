"""PostgreSQL, for a node that outgrows a file: psycopg 3, one connection that writes and a few that read."""
