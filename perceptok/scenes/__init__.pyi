from .layouts.gatherings import Difficulty as Difficulty
from .layouts.sampling import sample_scene as sample_scene
from .pictures.picture import (
    PLURALS as PLURALS,
    ProceduralPictures as ProceduralPictures,
    ScenePicture as ScenePicture,
    render_picture as render_picture,
)
from .pictures.splits import SplitName as SplitName
from .primitives import (
    box as box,
    cylinder as cylinder,
    ellipsoid as ellipsoid,
    place as place,
    quad as quad,
)
from .procedural import ProceduralDepthMaps as ProceduralDepthMaps
from .raycast import (
    Camera as Camera,
    Rendering as Rendering,
    Scene as Scene,
    SceneObject as SceneObject,
    render as render,
)
