"""One rank of a server: executor, scheduler, runner, sampler, models."""
