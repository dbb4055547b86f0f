"""Which classes of generated objects the small model is for, and which its lifting network learns from."""

SMALL_CLASSES = (
    "chair", "stool", "sofa", "table", "bed", "bookcase", "cabinet", "desk_lamp", "floor_lamp", "mug", "bottle", "bowl", "vase",
    "teapot", "coffee_machine", "can", "car", "truck", "bus", "airplane", "boat", "quadruped", "duck", "teddy", "robot", "figurine",
    "potted_plant", "tree", "hammer", "axe", "guitar", "book", "carton", "shoe", "hat", "house", "composition",
)  # fmt: skip

# For the lifting network: vessels often, as photos seldom show how thick a wall is and what the floor is like
LIFTING_CLASSES = (*SMALL_CLASSES, *("vessel",) * 6)
