"""What all pages share: elements that escape text, the frame with its two languages, small plots, and one style."""
