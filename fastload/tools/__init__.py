"""The work of the commands other than building caches: advice, drawings, the demo, the sample set."""
