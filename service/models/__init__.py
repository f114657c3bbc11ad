"""The models that the service answers with, and how they change while it runs."""
