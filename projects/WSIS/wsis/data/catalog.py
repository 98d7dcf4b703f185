"""Detectron2's catalogs and box modes, without what else its packages import: 2 CPU seconds.

Detectron2's own data sets (COCO and others) are registered by ``import detectron2.data``.
"""

from wsis.compat import import_early

DatasetCatalog = import_early("detectron2.data.catalog").DatasetCatalog
MetadataCatalog = import_early("detectron2.data.catalog").MetadataCatalog
BoxMode = import_early("detectron2.structures.boxes").BoxMode
