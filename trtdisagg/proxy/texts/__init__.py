"""Work on texts, in processes of its own: chat templates, tokens, chains of block hashes.

    texts       what is asked, and what the answers mean
    crew        the processes, and who waits for them
    process     one of them, as the proxy sees it
    child       the same from inside: jobs in, answers out
    work        one job: a body and a tokenizer -> an answer

The proxy's loop touches only what is as large as a prompt has blocks.
"""
