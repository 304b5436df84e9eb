"""What every room may import: errors, atomic files, progress, optional packages. Imports nothing of ours."""
