"""What maps that belong to images hold, known to those who read them, train on them and look at them."""

from __future__ import annotations

# in maps of classes, edges and marks, where nothing is known; numbers have NaN there
UNKNOWN = 255
# of people, as the multi-task literature divides them (Pascal-Part with six parts)
PARTS = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")
# Boxes of an image, which move with it as maps do: float32 [most, 6], a row a box: left, top, right and bottom in
# pixels, the number of its class, and 1 where it is neither to be found nor to be missed. Rows without area hold none.
BOXES = "boxes"
