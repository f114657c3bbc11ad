"""A package, so that its package-scoped fixtures, and the event loop of Playwright, end with its tests."""
