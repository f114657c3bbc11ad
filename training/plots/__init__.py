"""Plots of a trained model."""
