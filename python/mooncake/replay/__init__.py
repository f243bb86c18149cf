"""`mooncake replay`: the incident as a tool.

A load of requests goes from a prefill process to a decode process, pass after pass, while decode
steps take and give back pages: see docs/replay.md. The modules that the two processes run, kv
and worker, import nothing of this package but each other, so that they also run under an
interpreter whose `mooncake` is upstream's.
"""
