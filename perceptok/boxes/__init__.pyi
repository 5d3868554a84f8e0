from .codec import (
    BoxCodec as BoxCodec,
    EncodedBoxes as EncodedBoxes,
)
from .datasets.box_records import (
    BoxFailure as BoxFailure,
    BoxLabels as BoxLabels,
    BoxRecord as BoxRecord,
    ImageBoxes as ImageBoxes,
    read_box_records as read_box_records,
)
from .datasets.coco import (
    AnnotationFile as AnnotationFile,
    read_annotations as read_annotations,
    read_results as read_results,
)
from .datasets.coco_writing import (
    rewrite_annotations as rewrite_annotations,
    write_annotations as write_annotations,
)
from .datasets.formats import (
    from_supervision as from_supervision,
    from_torchvision as from_torchvision,
    from_yolo as from_yolo,
    to_supervision as to_supervision,
    to_torchvision as to_torchvision,
    to_yolo as to_yolo,
)
from .frames import (
    FrameMode as FrameMode,
    ImageFrame as ImageFrame,
    orient_image as orient_image,
)
from .metrics import (
    BoxMatches as BoxMatches,
    BoxReport as BoxReport,
    BoxScores as BoxScores,
    GroundTruth as GroundTruth,
    GroundTruthFile as GroundTruthFile,
    TextPrediction as TextPrediction,
    compute_iou as compute_iou,
    match_boxes as match_boxes,
    read_box_predictions as read_box_predictions,
    read_ground_truth as read_ground_truth,
    score_boxes as score_boxes,
    score_predictions as score_predictions,
)
from .plots import (
    DrawReport as DrawReport,
    draw_boxes as draw_boxes,
    draw_record as draw_record,
    draw_records as draw_records,
)
from .points import (
    MolmoPoints as MolmoPoints,
    PointCodec as PointCodec,
    points_from_molmo as points_from_molmo,
    points_to_molmo as points_to_molmo,
)
from .processors import infer_frame as infer_frame
from .spelling_base import ParsedSpelling as ParsedSpelling
from .spellings import (
    BoxScheme as BoxScheme,
    Conversion as Conversion,
    convert_spelling as convert_spelling,
    parse_spelling as parse_spelling,
)
from .text import (
    BoxAnswer as BoxAnswer,
    BoxForm as BoxForm,
    MalformedPiece as MalformedPiece,
    ParsedBoxes as ParsedBoxes,
    box_answer_from_text as box_answer_from_text,
    box_answer_to_text as box_answer_to_text,
    boxes_from_text as boxes_from_text,
    boxes_to_text as boxes_to_text,
    find_labels as find_labels,
    labelled_boxes_from_text as labelled_boxes_from_text,
    labelled_boxes_to_text as labelled_boxes_to_text,
    parse_boxes as parse_boxes,
)
