"""What servers need for what: a cluster of its own, asked over HTTP as clients do."""
