"""What is asked of trained models: how well they read beyond their window, and why."""
