"""Commands that look after a cache: status, verify, audit, maintenance, show."""
