"""One file a family: the table of its weights and that of its options."""
