"""Pictures in and out: what is drawn, and what maps mean."""
