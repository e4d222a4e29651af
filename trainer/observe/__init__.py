"""What a run says of itself: records, TensorBoard, the terminal, pictures, charts, and where its seconds went."""
