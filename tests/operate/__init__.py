"""What whoever runs an application sees and does."""
