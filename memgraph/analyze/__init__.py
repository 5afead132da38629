"""Questions asked of a `Trace`: plain rows out. Nothing here imports torch."""
