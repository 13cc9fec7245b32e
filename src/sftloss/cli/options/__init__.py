"""Options as records, shared between verbs."""
