"""Reading what a KAN has learned."""
