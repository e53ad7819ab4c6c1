"""The status page, /metrics and /healthz."""
