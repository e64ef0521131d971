"""Runs over seeds, and what trainings have logged."""
