"""Tests of memgraph/world."""
