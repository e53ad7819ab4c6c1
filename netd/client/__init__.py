"""What talks to netd from outside."""
