"""Offline: a data set in, a checkpoint, its figures and its pictures out."""
