"""What a GPU does with memory, in plain numbers. Nothing here imports torch."""
