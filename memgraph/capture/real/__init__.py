"""What happens on a real card, recorded."""
