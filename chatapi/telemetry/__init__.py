"""What is told of calls: log lines, metrics, traces, health."""
