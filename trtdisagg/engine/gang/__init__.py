"""Several processes that are one engine: rank 0 decides what is computed, the others follow it.

    rank 0     listens                  admits each rank        opens a way          Compute   Compute  ...   Goodbye
                    |  ^                       |                      |                 |         |              |
    rank 1          |  joins twice:            |                      |                 |         |              |
               (waits for it)  steps, kv       v                      v                 v         v              v
                                            loads its shard          tensors         computes  computes        ends

`sockets` are where they meet, on one host or several; `meeting` lets ranks in, `frames` carries messages, `ways`
tensors; `leader` is rank 0's end of it all, `follow` the life of each other rank. The ranks live and die together:
whoever finds another gone ends, too.
"""
