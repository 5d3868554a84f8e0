from .codec import BoxCodec as BoxCodec
from .datasets.box_records import (
    BoxFailure as BoxFailure,
    BoxLabels as BoxLabels,
    BoxRecord as BoxRecord,
    FrameKind as FrameKind,
    ImageBoxes as ImageBoxes,
    read_box_lines as read_box_lines,
)
from .datasets.coco import (
    AnnotationFile as AnnotationFile,
    read_annotations as read_annotations,
    read_results as read_results,
    rewrite_annotations as rewrite_annotations,
    write_annotations as write_annotations,
)
from .frames import ImageFrame as ImageFrame
from .metrics import (
    BoxAnswerLine as BoxAnswerLine,
    BoxScores as BoxScores,
    Truth as Truth,
    iou_matrix as iou_matrix,
    match_boxes as match_boxes,
    read_box_predictions as read_box_predictions,
    score_boxes as score_boxes,
    score_predictions as score_predictions,
)
from .placement import upright as upright
from .plots import (
    draw_boxes as draw_boxes,
)
from .points import (
    PointCodec as PointCodec,
    points_from_molmo as points_from_molmo,
    points_to_molmo as points_to_molmo,
)
from .spellings import (
    convert as convert,
    parse_spelling as parse_spelling,
)
from .text import (
    labelled_to_text as labelled_to_text,
    parse_boxes as parse_boxes,
)
