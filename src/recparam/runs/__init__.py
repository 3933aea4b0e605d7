"""What the commands for people's own data do: runs on disk, their scores, latents and page."""
