"""A function as numbered equations and the values between them."""
