"""What moves the KV of one rank: here, or in the process of another rank."""
