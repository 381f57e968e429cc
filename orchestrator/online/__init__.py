"""One query, answered while the client waits."""
