from .codec import BoxCodec as BoxCodec
from .datasets.box_records import (
    BoxFailure as BoxFailure,
)
from .datasets.box_records import (
    BoxLabels as BoxLabels,
)
from .datasets.box_records import (
    BoxRecord as BoxRecord,
)
from .datasets.box_records import (
    FrameKind as FrameKind,
)
from .datasets.box_records import (
    ImageBoxes as ImageBoxes,
)
from .datasets.box_records import (
    read_box_lines as read_box_lines,
)
from .datasets.coco import (
    AnnotationFile as AnnotationFile,
)
from .datasets.coco import (
    read_annotations as read_annotations,
)
from .datasets.coco import (
    read_results as read_results,
)
from .datasets.coco import (
    rewrite_annotations as rewrite_annotations,
)
from .datasets.coco import (
    write_annotations as write_annotations,
)
from .frames import ImageFrame as ImageFrame
from .metrics import (
    BoxAnswerLine as BoxAnswerLine,
)
from .metrics import (
    BoxScores as BoxScores,
)
from .metrics import (
    Truth as Truth,
)
from .metrics import (
    iou_matrix as iou_matrix,
)
from .metrics import (
    match_boxes as match_boxes,
)
from .metrics import (
    read_box_predictions as read_box_predictions,
)
from .metrics import (
    score_boxes as score_boxes,
)
from .metrics import (
    score_predictions as score_predictions,
)
from .placement import upright as upright
from .plots import (
    draw_boxes as draw_boxes,
)
from .plots import (
    read_box_picture as read_box_picture,
)
from .points import (
    PointCodec as PointCodec,
)
from .points import (
    points_from_molmo as points_from_molmo,
)
from .points import (
    points_to_molmo as points_to_molmo,
)
from .spellings import (
    convert as convert,
)
from .spellings import (
    parse_spelling as parse_spelling,
)
from .text import (
    labelled_to_text as labelled_to_text,
)
from .text import (
    parse_boxes as parse_boxes,
)
