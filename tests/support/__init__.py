"""What tests share: gateways, upstreams, servers, and what callers hear."""
