"""Guided decoding: answers that are valid by construction. Doors: `request.guide_of`, `guides.TokenGuides`."""
