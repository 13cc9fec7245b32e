"""Conversations rendered by chat templates, and whose words each token is."""
