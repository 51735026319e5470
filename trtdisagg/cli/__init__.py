"""Commands and screens; thin."""
