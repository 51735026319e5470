"""What TensorRT-LLM's files also say: one table of the keys and values that are not (yet) ours.

A file written for TensorRT-LLM is a valid cluster file. Of its keys that the schema lacks, some have no effect here and
are named once by `check` and `up`, with the reason; the others ask for something that would change results or that
people rely on, and are refused while it is missing. Knows no files and no lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from trtdisagg.config.key_types import Backend
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import (
    CacheTransceiverConfig,
    KvCacheConfig,
    RouterConfig,
    SchedulerConfig,
    ServerSection,
)


class NoEffect(msgspec.Struct, frozen=True):
    """Any value is accepted and changes nothing; `because` completes the sentence 'no effect here, because ...'."""

    because: str


class NotThereYet(msgspec.Struct, frozen=True):
    """A value that asks for `what` is refused; one that does not is as if it were not written."""

    what: str
    asks: Callable[[Any], bool] = bool


def _other_than(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value is not None and value not in values


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value.upper() in values


def _more_than_one(value: Any) -> bool:
    return isinstance(value, int) and value > 1


_ONE_WAY_FOR_EXPERTS = NoEffect("there is one implementation of experts for each kind of device")
_GRAPHS = NoEffect("on a GPU, graphs are captured for the batch sizes up to max_batch_size")
_NO_COMPILER = NoEffect("the builtin engine compiles and tunes nothing")
_ONE_SAMPLER = NoEffect("there is one sampler")
_NO_OFFLOAD = NoEffect("KV blocks are not moved to host memory")
_ITER_STATS = NoEffect("counters are always kept; see `trtdisagg status` and /metrics")
_ADMIT_AT_ONCE = NoEffect("a request joins the running batch at the next step")
_LORA = NotThereYet("LoRA")
_OTHER_WEIGHTS = NotThereYet("quantized weights other than those of `quantization` and of .gguf files")
_COMES_WITH_MODEL = NotThereYet("a tokenizer, revision or parser other than the model's own", _other_than("auto"))
_EVENT_DRIVEN = NoEffect("the end of a transfer is an event, nothing polls for it")

TABLE: dict[type[msgspec.Struct], dict[str, NoEffect | NotThereYet]] = {
    ClusterFile: {
        "allow_request_chat_template": NotThereYet("chat templates in requests"),
        "disagg_coordinator_url": NotThereYet("a coordinator of several proxies"),
        "engine": NotThereYet("this engine", _one_of("TRTLLM", "VLLM", "SGLANG")),
        "gen_strip_message_history": NoEffect("the proxy passes a request's body on as it came"),
        "gen_tokids_ctxbytes": NoEffect("the proxy passes bodies on without decoding them"),
        "node_id": NoEffect("the node in a request id is made from the name of the host"),
        "perf_metrics_output_dir": NoEffect("/perf_metrics says them, and no file is written"),
        "schedule_style": NoEffect(
            "a request always begins on a context server, and its first token is sent from there"
        ),
    },
    ServerSection: {
        "allreduce_strategy": NoEffect("there is one way of adding up over ranks for each kind of device"),
        "attention_dp_config": NoEffect("a request goes to a rank when it comes, and waits for no others"),
        "attn_backend": NoEffect("there is one implementation of attention for each kind of device"),
        "backend": NotThereYet("an engine other than the builtin one", _other_than("pytorch", "_autodeploy")),
        "batch_wait_max_tokens_ratio": _ADMIT_AT_ONCE,
        "batch_wait_timeout_iters": _ADMIT_AT_ONCE,
        "batch_wait_timeout_ms": _ADMIT_AT_ONCE,
        "batched_logits_processor": NotThereYet("logits processors"),
        "build_config": NoEffect("the builtin engine runs the weights, it builds nothing from them"),
        "checkpoint_format": NoEffect("the format of the weights is seen from the files"),
        "context_parallel_size": NotThereYet("context parallelism", _more_than_one),
        "cp_config": NotThereYet("context parallelism"),
        "cuda_graph_batch_sizes": _GRAPHS,
        "cuda_graph_config": _GRAPHS,
        "cuda_graph_padding_enabled": _GRAPHS,
        "custom_tokenizer": _COMES_WITH_MODEL,
        "decoding_config": NotThereYet("decoding modes other than sampling"),
        "disable_flashinfer_sampling": _ONE_SAMPLER,
        "enable_autotuner": _NO_COMPILER,
        "enable_iter_perf_stats": _ITER_STATS,
        "enable_iter_req_stats": _ITER_STATS,
        "enable_layerwise_nvtx_marker": NoEffect("there are no NVTX ranges"),
        "enable_lm_head_tp_in_adp": NoEffect("each rank computes the logits of its own requests then"),
        "enable_lora": _LORA,
        "enable_min_latency": _NO_COMPILER,
        "enable_mixed_sampler": _ONE_SAMPLER,
        "enable_trtllm_sampler": _ONE_SAMPLER,
        "free_gpu_memory_fraction": NoEffect("kv_cache_config has one of its own, and that one counts"),
        "env_overrides": NoEffect("the section has an `env` as well, and that one counts"),
        "force_dynamic_quantization": _OTHER_WEIGHTS,
        "garbage_collection_gen0_threshold": NoEffect("Python's own threshold is kept"),
        "gather_generation_logits": NoEffect("logits go to the requests that ask for them"),
        "gpus_per_node": NoEffect("the GPUs of the node are counted"),
        "guided_decoding_backend": NoEffect("llguidance is used, whatever stands there"),
        "iter_stats_max_iterations": _ITER_STATS,
        "kv_connector_config": NotThereYet("KV connectors"),
        "load_format": NotThereYet("weights that are not the model's own", _other_than("auto", 0)),
        "lora_config": _LORA,
        "max_beam_width": NotThereYet("beam search", _more_than_one),
        "max_input_len": NoEffect("max_seq_len bounds prompt and output together"),
        "max_stats_len": _ITER_STATS,
        "mm_encoder_only": NotThereYet("multimodal models"),
        "moe_backend": _ONE_WAY_FOR_EXPERTS,
        "moe_cluster_parallel_size": NotThereYet("experts divided among clusters", _other_than(1, -1)),
        "moe_config": _ONE_WAY_FOR_EXPERTS,
        "normalize_log_probs": NotThereYet("beam search"),
        "num_postprocess_workers": NoEffect("text is made outside the engine loop already, on a thread of its own"),
        "nvfp4_gemm_config": _OTHER_WEIGHTS,
        "orchestrator_type": NoEffect("the supervisor starts the ranks"),
        "otlp_traces_endpoint": NoEffect("traces are those of the proxy, which `otlp_config` of the file is for"),
        "peft_cache_config": _LORA,
        "postprocess_tokenizer_dir": NoEffect("text is made with the model's own tokenizer"),
        "print_iter_log": NoEffect("counters go to `trtdisagg status` and /metrics, not to the log"),
        "quant_config": _OTHER_WEIGHTS,
        "reasoning_parser": _COMES_WITH_MODEL,
        "request_stats_max_iterations": _ITER_STATS,
        "revision": _COMES_WITH_MODEL,
        "sampler_force_async_worker": _ONE_SAMPLER,
        "sampler_type": _ONE_SAMPLER,
        "skip_tokenizer_init": NotThereYet("servers without a tokenizer"),
        "sparse_attention_config": NotThereYet("sparse attention"),
        "speculative_config": NotThereYet("speculative decoding"),
        "tokenizer": _COMES_WITH_MODEL,
        "tokenizer_mode": _COMES_WITH_MODEL,
        "tokenizer_revision": _COMES_WITH_MODEL,
        "tool_parser": _COMES_WITH_MODEL,
        "torch_compile_config": _NO_COMPILER,
        "trust_remote_code": NoEffect("no code that comes with a model is ever run"),
        "use_cuda_graph": _GRAPHS,
        "use_torch_sampler": _ONE_SAMPLER,
        "dtype": NotThereYet("this compute type", _one_of("FLOAT16", "FP16", "HALF", "FP8")),
    },
    KvCacheConfig: {
        "attention_dp_events_gather_period_ms": NoEffect("events of all ranks are gathered as they come"),
        "copy_on_partial_reuse": NoEffect("a block that is reused in part is always copied"),
        "cross_kv_cache_fraction": NotThereYet("encoder-decoder models"),
        "dtype": NotThereYet("a KV cache of this type", _one_of("FLOAT16", "FP16", "HALF", "FP8", "INT8", "NVFP4")),
        "host_cache_size": _NO_OFFLOAD,
        "mamba_ssm_cache_dtype": NoEffect("there are no state-space models"),
        "max_attention_window": NotThereYet("windows of attention other than the model's own"),
        "max_gpu_total_bytes": NotThereYet("a KV cache bounded in bytes (max_tokens bounds it in tokens)"),
        "max_util_for_resume": NoEffect("a request that was interrupted goes on as soon as it fits"),
        "onboard_blocks": _NO_OFFLOAD,
        "secondary_offload_min_priority": _NO_OFFLOAD,
        "sink_token_length": NotThereYet("attention sinks"),
        "use_kv_cache_manager_v2": NoEffect("there is one KV cache manager"),
        "use_uvm": NoEffect("KV blocks are ordinary device memory"),
    },
    CacheTransceiverConfig: {
        "async_buffer": NoEffect("the staging buffer is allocated once, together with the KV pool"),
        "backend": NotThereYet("this transfer backend", _one_of("MOONCAKE")),
        "enable_cache_transceiver": NotThereYet("servers without a handover", lambda value: value is False),
        "kv_transfer_poll_interval_ms": _EVENT_DRIVEN,
        "kv_transfer_sender_future_timeout_ms": _EVENT_DRIVEN,
        "max_num_tokens": NoEffect("max_tokens_in_buffer, its newer name, stands there as well, and that one counts"),
        "transceiver_runtime": NoEffect("there is one transceiver"),
    },
    SchedulerConfig: {
        "capacity_scheduler_policy": NotThereYet("this policy", _one_of("STATIC_BATCH")),
        "context_chunking_policy": NotThereYet("this chunking policy", _one_of("EQUAL_PROGRESS")),
        "dynamic_batch_config": NoEffect("max_batch_size and max_num_tokens are the limits, and stay so"),
        "waiting_queue_policy": NotThereYet("this order of waiting", _other_than("fcfs", "FCFS")),
    },
    RouterConfig: {
        "max_num_tokens": NoEffect("load is counted in requests, or in all tokens in flight"),
        "tokens_per_block": NoEffect("each server says itself how many tokens its blocks have"),
    },
}

BACKEND_SPELLINGS = {word.lower(): word for word in get_args(Backend)}
"""Transfer backends as older files write them."""

ROUTER_SPELLINGS = {"conversation": "session"}
