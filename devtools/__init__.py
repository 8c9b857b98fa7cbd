"""Behind dev.py: set-up, a ComfyUI server, commands. Standard library only."""
