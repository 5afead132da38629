"""From a run to a `Trace`."""
