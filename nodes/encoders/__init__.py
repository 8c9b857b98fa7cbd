"""Features of phrases and pictures, by the host's encoders."""
