"""Registers every network and mapper of WSIS; what runs a network imports this.

`wsis.config` knows config keys and stages without them, so that these are told at once.
"""

import wsis.data.instance_mapper
import wsis.methods.boxcaseg.mappers
import wsis.methods.boxcaseg.meta_arch
import wsis.methods.boxcaseg.roi_heads
import wsis.methods.boxinst.given_boxes
import wsis.methods.boxinst.mappers
import wsis.methods.boxinst.roi_heads
import wsis.methods.cim.mappers
import wsis.methods.cim.meta_arch
import wsis.methods.cim.peaks
import wsis.methods.cim.roi_heads
import wsis.methods.iam.mappers
import wsis.methods.iam.meta_arch
import wsis.methods.iam.roi_heads
import wsis.methods.irnet.mappers
import wsis.methods.irnet.meta_arch
import wsis.methods.irnet.roi_heads
import wsis.methods.prm.mappers
import wsis.methods.prm.meta_arch
import wsis.methods.prm.roi_heads
import wsis.methods.prompted_masks.mappers
import wsis.methods.prompted_masks.meta_arch
import wsis.modeling.backbones
import wsis.modeling.image_classifier
import wsis.modeling.mask_head  # noqa: F401
