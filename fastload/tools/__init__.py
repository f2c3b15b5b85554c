"""What the commands do beside building caches: advice, pictures, the demo, the sample set."""
