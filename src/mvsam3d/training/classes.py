"""Which classes of generated objects the small model is for."""

SMALL_CLASSES = (
    "chair", "stool", "sofa", "table", "bed", "bookcase", "cabinet", "desk_lamp", "floor_lamp", "mug", "bottle", "bowl", "vase",
    "teapot", "coffee_machine", "can", "car", "truck", "bus", "airplane", "boat", "quadruped", "duck", "teddy", "robot", "figurine",
    "potted_plant", "tree", "hammer", "axe", "guitar", "book", "carton", "shoe", "hat", "house", "composition",
)  # fmt: skip
