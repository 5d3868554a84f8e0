from .layouts.gatherings import Difficulty as Difficulty
from .layouts.sampling import sample_scene as sample_scene
from .pictures.picture import (
    PLURALS as PLURALS,
)
from .pictures.picture import (
    ScenePicture as ScenePicture,
)
from .pictures.picture import (
    render_picture as render_picture,
)
from .pictures.splits import SplitName as SplitName
from .primitives import (
    box as box,
)
from .primitives import (
    cylinder as cylinder,
)
from .primitives import (
    ellipsoid as ellipsoid,
)
from .primitives import (
    place as place,
)
from .primitives import (
    quad as quad,
)
from .procedural import ProceduralDepthMaps as ProceduralDepthMaps
from .raycast import (
    Camera as Camera,
)
from .raycast import (
    Rendering as Rendering,
)
from .raycast import (
    Scene as Scene,
)
from .raycast import (
    SceneObject as SceneObject,
)
from .raycast import (
    render as render,
)
