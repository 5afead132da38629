"""What is known of tensors that hold no values, and what is assumed where it is not."""
