"""What a deployment says of itself."""
