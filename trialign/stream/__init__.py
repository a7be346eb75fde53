"""Read blocks of records as batches of packed rows for training, in an order that survives restarts."""
