"""Federation: who is who among servers."""
