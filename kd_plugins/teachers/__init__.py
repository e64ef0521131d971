"""Teachers: who is asked."""
