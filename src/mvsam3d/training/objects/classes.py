"""The classes by name, and objects by seed."""

from collections.abc import Callable

import numpy as np

from mvsam3d.training.objects import furniture, kitchen, living, things, vehicles
from mvsam3d.training.objects.composition import composition
from mvsam3d.training.objects.kernels import solid
from mvsam3d.training.objects.program import Builder, EmptyObject, GeneratedObject
from mvsam3d.training.objects.textures import Palette

COMPOSITIONS = 0.12  # share of free compositions

CLASSES: dict[str, Callable[[Builder, Palette], None]] = {
    function.__name__: function
    for function in (
        furniture.chair,
        furniture.office_chair,
        furniture.stool,
        furniture.sofa,
        furniture.armchair,
        furniture.table,
        furniture.desk,
        furniture.bed,
        furniture.bookcase,
        furniture.cabinet,
        furniture.desk_lamp,
        furniture.floor_lamp,
        furniture.television,
        furniture.washing_machine,
        furniture.bench,
        furniture.clock,
        kitchen.mug,
        kitchen.bottle,
        kitchen.wine_glass,
        kitchen.bowl,
        kitchen.plate,
        kitchen.teapot,
        kitchen.kettle,
        kitchen.vase,
        kitchen.vessel,
        kitchen.pan,
        kitchen.spoon,
        kitchen.knife,
        kitchen.fork,
        kitchen.coffee_machine,
        kitchen.toaster,
        kitchen.can,
        kitchen.fruit,
        kitchen.pitcher,
        kitchen.blender,
        vehicles.car,
        vehicles.truck,
        vehicles.bus,
        vehicles.train,
        vehicles.airplane,
        vehicles.helicopter,
        vehicles.boat,
        vehicles.bicycle,
        vehicles.cart,
        vehicles.tractor,
        vehicles.rocket,
        living.quadruped,
        living.cat,
        living.bird,
        living.duck,
        living.fish,
        living.turtle,
        living.teddy,
        living.figurine,
        living.robot,
        living.snowman,
        living.potted_plant,
        living.tree,
        things.hammer,
        things.axe,
        things.screwdriver,
        things.shovel,
        things.pliers,
        things.guitar,
        things.headphones,
        things.camera,
        things.laptop,
        things.phone,
        things.radio,
        things.game_controller,
        things.drill,
        things.book,
        things.carton,
        things.backpack,
        things.shoe,
        things.hat,
        things.shirt,
        things.glasses,
        things.umbrella,
        things.ball,
        things.candle,
        things.chess_piece,
        things.house,
        things.tower,
        things.toy_blocks,
        things.sword,
        things.lamp_post,
        composition,
    )
}
CLASS_NAMES: tuple[str, ...] = tuple(CLASSES)


def generate_object(seed: int, *, name: str | None = None) -> GeneratedObject:
    """The object of a seed; always the same one.

    Args:
        seed: >= 0. Ranges of seeds are the splits: train and held-out objects share the classes, not the seeds.
        name: its class; by default drawn from the seed, compositions with probability `COMPOSITIONS`.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = CLASS_NAMES[rng.integers(len(CLASS_NAMES) - 1)] if rng.uniform() > COMPOSITIONS else "composition"
    name = name or drawn
    while True:
        builder = Builder()
        try:
            CLASSES[name](builder, Palette(rng))
            made = builder.finish(name, seed)
        except EmptyObject:
            continue
        if solid(made.tape, 24, 0.35 / 24).any():
            return made
