"""Rows in, text or files out."""
