"""What became of each request, written down once, and everything that is made of it.

record, records     one, and all that run or have run; readers are told of each at its end
counts -> metrics   with gauges; merged_metrics and kept_pages add up several processes; targets: servers' own pages
access_log, traces  lines, and spans (spans, trace_context)
recent, timelines   for `trtdisagg trace`; perf: /perf_metrics
"""
