"""Several processes of one proxy: how they hear of each other (fellows, worker_room), and who starts them when no agent
does (workers)."""
