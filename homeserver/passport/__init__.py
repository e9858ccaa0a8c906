"""The passport: what a deployment says of itself to everybody, under its signature."""
