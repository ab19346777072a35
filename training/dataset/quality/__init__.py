"""What can be measured of a picture: sharpness, medium, lettering, overlays."""
