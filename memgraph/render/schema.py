"""The version of the reports as JSON. It is raised when a name goes or changes its meaning, not when one is added."""

SCHEMA = 1
