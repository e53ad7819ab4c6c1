"""The protocols that netd brings along: one module each."""
