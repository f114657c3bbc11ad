"""Metrics of a model, and the report of them."""
