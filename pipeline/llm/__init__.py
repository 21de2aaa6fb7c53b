"""OpenAI-compatible endpoints: client, rate limit, cache of replies, structured chat, spending."""
