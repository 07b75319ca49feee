"""Before it runs: where an inf or a NaN can arise, by abstract interpretation."""
