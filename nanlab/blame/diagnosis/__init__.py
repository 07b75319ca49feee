"""Host side: from the records of a probe to the origin and the culprit."""
