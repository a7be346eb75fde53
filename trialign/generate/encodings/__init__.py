"""Item encodings, one file each: the token ids of items in a row, and the modules that embed and predict them."""
