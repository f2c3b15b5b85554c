"""Operations of detectors on boxes and features."""

from fastload.ops.pooling import roi_align, roi_align_torch
from fastload.ops.rotated import corners_to_xywha, xywha_to_corners
from fastload.ops.suppression import nms, nms_torch, nms_torch_many

__all__ = ["corners_to_xywha", "nms", "nms_torch", "nms_torch_many", "roi_align", "roi_align_torch", "xywha_to_corners"]
