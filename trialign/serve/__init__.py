"""Recommendations over HTTP: the app, the batches of requests, reload and rollback. Needs the extra `serve`."""
