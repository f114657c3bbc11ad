"""The checkpoint that the service loads by default."""
