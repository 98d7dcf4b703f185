"""Pictures of what stages read and make, and plots of figures: arrays in, arrays or SVG out."""
