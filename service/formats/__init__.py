"""Bytes ↔ arrays and pictures."""
