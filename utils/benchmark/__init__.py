"""What encoding, training and routing cost."""
