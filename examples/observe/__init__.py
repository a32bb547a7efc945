"""A Grafana dashboard and alerts for Prometheus, made of what sessionlock measures."""
