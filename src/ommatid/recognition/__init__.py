"""Recognition: an image or a clip in, its labels or its embedding out."""
