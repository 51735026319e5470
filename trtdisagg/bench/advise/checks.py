"""Whether a cluster file and a profile are ones that can be reasoned about, told before anything is measured. Pure."""

from __future__ import annotations

from pathlib import PurePath

from trtdisagg.bench.advise.load import Load
from trtdisagg.bench.advise.profile import Profile
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError


def sections_of(cluster: ClusterFile) -> dict[str, ServerSection]:
    """By role; a file without context servers says by those of generation what they would be."""
    generation = cluster.generation_servers or ServerSection()
    return {"generation": generation, "context": cluster.context_servers or generation}


def check_cluster(cluster: ClusterFile) -> None:
    """
    :raises ConfigError: what the simulation does not know.
    """
    if cluster.models or cluster.model is None:
        raise ConfigError("advise is about one `model:` whose servers are ours to start")
    for role, section in sections_of(cluster).items():
        if section.enable_attention_dp:
            raise ConfigError(
                f"{role}_servers.enable_attention_dp: the simulation knows no ranks with requests of their own"
            )
        if not section.enable_chunked_prefill and role == "generation":
            raise ConfigError("generation_servers.enable_chunked_prefill is false: the simulation knows chunks only")


def check_lengths(profile: Profile, load: Load) -> None:
    """
    :raises ConfigError: servers refuse such requests.
    """
    most = int((load.num_prompt + load.num_output).max())
    if most > profile.max_seq_len:
        raise ConfigError(
            f"prompt and answer have up to {most} tokens, and {profile.model} takes {profile.max_seq_len}"
        )


def check_profile(profile: Profile, cluster: ClusterFile) -> None:
    """
    :raises ConfigError: it is of other servers than the file's.
    """
    model = cluster.model or ""
    if profile.model not in (cluster.served_model_name, model, PurePath(model).name):
        raise ConfigError(f"the profile is of {profile.model}, the cluster file of {model}: measure that")
    for role, section in sections_of(cluster).items():
        measured = profile.servers[role]
        one = (measured.tensor_parallel_size, measured.pipeline_parallel_size)
        other = (section.tensor_parallel_size, section.pipeline_parallel_size)
        if one != other:
            raise ConfigError(
                f"the profile is of {role} servers with TP {one[0]} and PP {one[1]}, the cluster file has "
                f"TP {other[0]} and PP {other[1]}: measure those"
            )
