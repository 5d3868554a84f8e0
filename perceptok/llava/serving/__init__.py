"""Serving: an OpenAI-compatible server over `PerceptionPipeline` with a page, and one client for several servers."""
