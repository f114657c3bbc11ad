"""Processes of the service: the server, its workers and the supervisor that replaces them."""
