"""Work on texts, in processes of its own: chat templates, tokens, chains of block hashes.

    texts       the queue: who waits, who is asked, what when a process dies
    process     one process, as the proxy sees it
    child       the same from inside: jobs in, answers out
    work        one job: a body and a tokenizer -> an answer

The proxy's loop touches only what is as large as a prompt has blocks.
"""
