"""trtdisagg: disaggregated LLM serving from one file, brought up with one command and kept up."""

__version__ = "0.1.0"
