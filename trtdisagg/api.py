"""The public Python API: everything a program imports to compute with an engine of its own.

    from trtdisagg.api import EngineOptions, Request, SamplingParams, open_executor

Described in docs/python-api.md. Importing it imports torch.
"""

from __future__ import annotations

from trtdisagg.engine.executor import Executor
from trtdisagg.engine.local import Opened, open_executor
from trtdisagg.engine.options import EngineOptions
from trtdisagg.engine.orchestrator import DisaggOrchestrator
from trtdisagg.engine.request import ContextPhaseParams, Output, Request, SamplingParams, TokenLogprob
from trtdisagg.protocol.guide import GuideSpec

__all__ = [
    "ContextPhaseParams",
    "DisaggOrchestrator",
    "EngineOptions",
    "Executor",
    "GuideSpec",
    "Opened",
    "Output",
    "Request",
    "SamplingParams",
    "TokenLogprob",
    "open_executor",
]
