"""Everything that outlives the process: Postgres and its memory twin."""
