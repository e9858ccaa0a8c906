"""SQLite, embedded: one writer and a few readers on one file, each with a thread of its own."""
