"""Measurements of what a user runs: each is a program of its own, started and listened to here."""
