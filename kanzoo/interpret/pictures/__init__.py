"""Pictures of what a KAN has learned."""
