"""From blocks of records to batches of rows: what a training reads, in an order that survives restarts."""
