from .images.scene_image import (
    PLURALS as PLURALS,
    ProceduralImages as ProceduralImages,
    SceneImage as SceneImage,
    VisibleObject as VisibleObject,
    render_image as render_image,
)
from .images.splits import SplitName as SplitName
from .layouts.gatherings import Difficulty as Difficulty
from .layouts.scene_sampling import sample_scene as sample_scene
from .primitives import (
    box as box,
    cylinder as cylinder,
    ellipsoid as ellipsoid,
    place as place,
    quad as quad,
)
from .procedural import (
    ProceduralClips as ProceduralClips,
    ProceduralDepthMaps as ProceduralDepthMaps,
)
from .raycast import (
    Camera as Camera,
    Rendering as Rendering,
    Scene as Scene,
    SceneObject as SceneObject,
    render as render,
)
