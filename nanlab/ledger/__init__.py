"""Claims, studies -> verdicts: what a published sentence says, held against what was measured."""
