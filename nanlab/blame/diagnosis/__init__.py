"""From what a probe recorded to the origin and the culprit; on the host."""
