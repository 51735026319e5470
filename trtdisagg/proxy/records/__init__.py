"""What became of each request, written down once, and everything that is made of it.

record, records     one, and all that run or have run; readers are told of each at its end
counts -> metrics   with gauges; merged_metrics and kept_pages where there are several processes; targets (servers' own)
access_log, traces  (spans, trace_context)         perf          /perf_metrics
recent, timelines   for `trtdisagg trace`
"""
