"""What clients send and get: routes, requests, responses, and other protocols over the same engine."""
